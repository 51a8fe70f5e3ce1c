"""Importing swin_dense makes mmcv-lite, mmdet and mmseg importable, silently."""

import importlib.util
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path

import mmcv
import pytest
from mmengine.config import utils as config_utils

import swin_dense
from swin_dense.compat import forks
from swin_dense.compat.import_hooks import ExecutionFinder
from swin_dense.compat.mmcv_ext import ExtensionFinder
from swin_dense.compat.warning_filters import ignore_openmmlab_warnings
from swin_dense.engine.terminal.user_errors import as_user_error
from swin_dense.errors import UserError


def run_python(code: str, *flags: str, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = {"PATH": "", "PYTHONPATH": str(path or ""), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


@pytest.fixture
def full_mmcv(tmp_path: Path) -> Path:
    """A folder with the installed mmcv and a fake compiled extension."""
    package = tmp_path / "mmcv"
    package.mkdir()
    for entry in Path(mmcv.__file__).parent.iterdir():
        if entry.name.partition(".")[0] != "_ext":
            (package / entry.name).symlink_to(entry)
    (package / "_ext.py").write_text(
        "def __getattr__(name):\n"
        "    if name.startswith('__'):\n"
        "        raise AttributeError(name)\n"
        "    return lambda *args, **kwargs: 'compiled ' + name\n"
    )
    return tmp_path


def test_imports_are_silent() -> None:
    """And looking up any model imports our heads and necks, which must not import mmdet."""
    code = (
        "import sys, swin_dense.models.heads, swin_dense.models.necks\n"
        "assert not {'mmdet', 'mmseg', 'mmcv.ops'} & set(sys.modules)\n"
        "import mmdet.models, mmseg.models\n"
        "from mmengine.utils import get_installed_path, is_installed\n"
        "assert is_installed('mmdet') and get_installed_path('mmseg')\n"
    )
    # PyTorch raises DeprecationWarning at import, which Python hides by default.
    result = run_python(code, "-W", "always::FutureWarning", "-W", "always::UserWarning")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_invalid_escape_warnings_of_openmmlab_are_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "mmdet"
    folder.mkdir()
    bad = 'TEXT = "\\ "\n'
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ignore_openmmlab_warnings()
        compile(bad, str(folder / "heads.py"), "exec")
        # In Python 3.10 and 3.11 it is a DeprecationWarning, which is hidden by default.
        shown = [w for w in caught if w.category is SyntaxWarning]
        assert not shown
        compile(bad, str(tmp_path / "mine.py"), "exec")
    assert len(caught) == (1 if sys.version_info >= (3, 12) else 2)


def test_mmengine_finds_the_extension() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loader = pkgutil.find_loader("mmcv._ext")
    assert loader is not None


def test_unsupported_operator_raises_when_called() -> None:
    import mmcv._ext as extension

    with pytest.raises(NotImplementedError, match=r"'carafe_forward'.*MMCV_WITH_OPS=1"):
        extension.carafe_forward(1, mask=2)
    assert not hasattr(extension, "__wrapped__")


def test_installing_again_changes_nothing() -> None:
    swin_dense.compat.install()  # pytest has reset warnings.filters since the first call
    filters = list(warnings.filters)
    finders = list(sys.meta_path)
    swin_dense.compat.install()
    assert sys.meta_path == finders
    assert warnings.filters == filters
    assert sum(isinstance(f, (ExtensionFinder, ExecutionFinder)) for f in finders) == 2


def test_full_mmcv_is_not_changed(full_mmcv: Path) -> None:
    code = (
        "import swin_dense, sys, mmcv._ext, mmcv.ops\n"
        "assert mmcv._ext.nms() == 'compiled nms'\n"
        "assert mmcv.ops.soft_nms.__module__ == 'mmcv.ops.nms'\n"
        "print(mmcv._ext.__file__)\n"
    )
    result = run_python(code, path=full_mmcv)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(full_mmcv / "mmcv" / "_ext.py")


def test_soft_nms_of_mmcv_is_ours() -> None:
    import mmcv.ops

    from swin_dense.compat.ops import boxes

    assert mmcv.ops.soft_nms is boxes.soft_nms
    assert sys.modules["mmcv.ops.nms"].soft_nms is boxes.soft_nms  # what batched_nms calls


def test_missing_pkg_resources_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    if not forks._mmengine_imports_it():
        pytest.skip("this mmengine does not import pkg_resources")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pkg_resources" else find(name)
    )
    with pytest.raises(UserError, match=r"pkg_resources.*pip install .*setuptools"):
        swin_dense.compat.check_pkg_resources()


def test_missing_packages_are_named(repo: Path) -> None:
    result = run_python("import swin_dense", "-S", path=repo)  # without what is installed
    last = result.stderr.splitlines()[-1]
    assert "UserError: swin_dense needs mmengine: run python -m pip install " in last
    error = as_user_error(ModuleNotFoundError("No module named 'mmdet'", name="mmdet.models"))
    assert str(error) == (
        'this needs mmdet, which is not installed: run python -m pip install "mmdet>=3.3,<3.4"'
    )
    assert as_user_error(ModuleNotFoundError("No module named 'mine'", name="mine")) is None


def test_forks_are_found_by_their_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_utils, "MODULE2PACKAGE", {"mmseg": "not-distributed", "none": "n"})
    forks.name_forks()
    assert config_utils.MODULE2PACKAGE == {"mmseg": "mmseg", "none": "n"}
