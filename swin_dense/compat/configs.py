"""mmengine's configs: bases of packages found by their path, and text formatted once."""

import functools
from typing import Any

from mmengine.config import Config, config

from swin_dense.packaged import external_config, find_config


def find_bases_by_path() -> None:
    """Let ``_base_`` name this package's configs, and find those of others without their metafiles.

    ``'swin_dense::cascade_swin_t_coco'`` is one of our configs, whose types keep their scopes:
    mmengine would look all of them up in ours. For ``'mmdet::...'`` it reads all metafiles of that
    package and asks pkg_resources, and arrives at the file of that path.
    """
    original = Config._get_cfg_path
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, colons, name = cfg_path.partition("::")
        if package == "swin_dense" and colons:
            return str(find_config(name)), None
        path = external_config(package, name) if colons else None
        return (str(path), package) if path else original(cfg_path, filename)

    type.__setattr__(Config, "_get_cfg_path", staticmethod(get_cfg_path))


def format_once() -> None:
    """Keep the last formatted config: a run writes the same one to several files and its log."""
    original = getattr(config, "FormatCode", None)
    if original is None or hasattr(original, "__wrapped__"):
        return
    last: dict[str, Any] = {}

    @functools.wraps(original)
    def format_code(text: str, **settings: Any) -> Any:
        key = f"{settings} {text}"
        if key not in last:
            last.clear()
            last[key] = original(text, **settings)
        return last[key]

    vars(config)["FormatCode"] = format_code
