"""Pointing every path of a config to another data folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from swin_dense import config_tree
from swin_dense.errors import UserError

# Parts of a config that are not about data: a path there stays.
_NOT_DATA = frozenset({"model", "work_dir", "load_from", "optim_wrapper", "default_hooks"})


def set_data_root(cfg: Config, root: str | Path) -> None:
    """Points every data set and evaluator of ``cfg`` to ``root``; relative parts stay.

    Each ``data_root`` in the config is replaced, in wrapped and concatenated data sets too, and
    each path that lies below one of them (an evaluator's ``ann_file``, a ``seg_prefix``) moves
    with it. A data set without ``data_root`` gets one. ``cfg`` is changed in place.

    Raises:
        UserError: there is no such folder.
    """
    new = str(root)
    if not os.path.isdir(new):
        raise UserError(f"no such data root: {new}; give the folder that holds the data set")
    tree = cfg._cfg_dict
    parts = {key: value for key, value in tree.items() if key not in _NOT_DATA}
    roots = [node.get("data_root") for node in config_tree.mappings(parts)]
    old = {root.rstrip("/") for root in roots if isinstance(root, str)} - {""}
    for key, value in parts.items():
        tree[key] = _move_entry(key, value, sorted(old, key=len, reverse=True), new)
    for split in ("train", "val", "test"):
        for dataset in config_tree.split_datasets(tree, split):
            dataset["data_root"] = dataset.get("data_root") or new
        for evaluator in config_tree.split_evaluators(tree, split):
            # Evaluators know no root: their relative paths are joined to the new one.
            for key in ("ann_file", "seg_prefix"):
                path = evaluator.get(key)
                if isinstance(path, str) and not _is_at_or_below(path, new):
                    evaluator[key] = os.path.join(new, path)
    if "own_data" in tree:
        tree["own_data"]["root"] = new
    tree["data_root"] = new


def _move(node: Any, old: list[str], new: str) -> Any:
    """A copy of the node with each string below one of the old roots moved below the new one."""
    if isinstance(node, Mapping):
        moved = {key: _move_entry(key, value, old, new) for key, value in node.items()}
        return type(node)(moved)  # type: ignore[call-arg]
    if isinstance(node, (list, tuple)):
        return type(node)(_move(value, old, new) for value in node)
    if isinstance(node, str):
        for root in old:
            if _is_at_or_below(node, root):
                rest = node[len(root) :].lstrip("/")
                return os.path.join(new, rest) if rest else new
    return node


def _move_entry(key: Any, value: Any, old: list[str], new: str) -> Any:
    if key == "data_root" and isinstance(value, str):
        return new
    # Names stay, also where a class has that of a folder. A string is a file that holds them.
    if str(key).endswith("classes") and isinstance(value, (list, tuple)):
        return value
    return _move(value, old, new)


def _is_at_or_below(path: str, root: str) -> bool:
    return (path.rstrip("/") + "/").startswith(root.rstrip("/") + "/")
