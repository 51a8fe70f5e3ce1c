"""mmengine's configs: bases found by their path, text formatted once, YAML that runs no code."""

import functools
import math
from typing import Any

import yaml
from mmengine.config import Config, config
from mmengine.fileio.handlers import yaml_handler

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


MOST_VALUES = 1_000_000
"""In a YAML file, with those that it repeats by their names; a config has thousands."""


class SafeLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's loader of plain data, and of tuples, as mmengine writes them.

    A short file can name a list, name lists of that list and so on: mmengine, which copies all of
    them, would not come to an end.
    """

    def get_single_node(self) -> Any:
        """The document; refuses what would be too large when it is written out."""
        node = super().get_single_node()
        if _values_below(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"it repeats values by their names to more than {MOST_VALUES:,}")
        return node


def _values_below(node: Any, known: dict[int, float]) -> float:
    """How many nodes there are, counting each as often as it is named; inf if one holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is counted
        pairs = isinstance(node, yaml.MappingNode)
        children = (child for pair in node.value for child in pair) if pairs else node.value
        known[id(node)] = 1 + sum(_values_below(child, known) for child in children)
    return known[id(node)]


def _tuple(loader: Any, node: yaml.SequenceNode) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


SafeLoader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def read_yaml_safely() -> None:
    """Let mmengine read YAML files as data; its own loader runs what a file names."""
    vars(yaml_handler)["Loader"] = SafeLoader
