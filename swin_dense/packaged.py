"""Config files inside installed packages, where OpenMMLab keeps them: ``PACKAGE/.mim/configs``."""

import difflib
import importlib.util
from pathlib import Path

from swin_dense.errors import UserError

# In a clone these are links to the folders at the top.
_MIM = Path(__file__).parent / ".mim"
CONFIGS = _MIM / "configs"


def config_names() -> list[str]:
    """Names of this package's configs, such as ``cascade_swin_t_coco``."""
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def find_config(name: str) -> Path:
    """The file of one of this package's configs, by its name with or without ``.py``.

    Raises:
        UserError: there is none of that name; the message has names that are close to it.
    """
    path = CONFIGS / f"{name.removesuffix('.py')}.py"
    if not path.is_file():
        raise UserError(f"no such config: {name}{close_names(name)}")
    return path


def close_names(name: str) -> str:
    """'; did you mean ...?' with this package's configs whose names are close; else ''."""
    stem = Path(name).name.removesuffix(".py")
    names = config_names()
    close = [stem] if stem in names else difflib.get_close_matches(stem, names, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def external_config(package: str, path: str) -> Path | None:
    """A config file of another installed package, by its path there; None if it has no such file.

    ``package`` is the name that is imported: ``mmseg``, not ``mmsegmentation``.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, ".mim", "configs", path)
        if file.is_file():
            return file
    return None
