"""Pointing every path of a config to another data folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from swin_dense import config_tree
from swin_dense.errors import UserError

# Parts of a config that are not about data, so that a path there is never data.
_NOT_DATA = frozenset({"model", "work_dir", "load_from", "optim_wrapper", "default_hooks"})
_EVALUATOR_PATHS = ("ann_file", "seg_prefix")


def set_data_root(cfg: Config, root: str | Path) -> None:
    """Points every data set and evaluator of ``cfg`` to ``root``; relative parts stay.

    Each ``data_root`` in the config is replaced, in wrapped and concatenated data sets too, and
    each path that lies below one of them (an evaluator's ``ann_file``, a ``seg_prefix``) moves
    with it. A data set that names no ``data_root`` gets one.

    Args:
        cfg: changed in place.
        root: an existing folder.

    Raises:
        UserError: there is no such folder.
    """
    new = str(root)
    if not os.path.isdir(new):
        raise UserError(f"no such data root: {new}; give the folder that holds the data set")
    tree = cfg._cfg_dict
    parts = {key: value for key, value in tree.items() if key not in _NOT_DATA}
    old = sorted({_plain(value) for value in _data_roots(parts)} - {""}, key=len, reverse=True)
    for key, value in parts.items():
        tree[key] = _moved(value, old, new)
    for split in ("train", "val", "test"):
        for dataset in config_tree.split_datasets(tree, split):
            if not dataset.get("data_root"):
                dataset["data_root"] = new
        for evaluator in config_tree.split_evaluators(tree, split):
            _join_relative_path(evaluator, new)
    tree["data_root"] = new


def _data_roots(node: Any) -> Iterator[str]:
    """Every ``data_root`` below a node."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "data_root" and isinstance(value, str):
                yield value
            else:
                yield from _data_roots(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _data_roots(value)


def _moved(node: Any, old: list[str], new: str) -> Any:
    """A copy of the node with each string below one of the old roots moved below the new one."""
    if isinstance(node, Mapping):
        moved = {
            key: new if key == "data_root" and isinstance(value, str) else _moved(value, old, new)
            for key, value in node.items()
        }
        return type(node)(moved)  # type: ignore[call-arg]
    if isinstance(node, (list, tuple)):
        return type(node)(_moved(value, old, new) for value in node)
    if isinstance(node, str):
        for root in old:
            if _plain(node) == root:
                return new
            if node.startswith(root + "/"):
                return os.path.join(new, node[len(root) :].lstrip("/"))
    return node


def _join_relative_path(evaluator: Any, new: str) -> None:
    """Evaluators know no root: a relative path there that is not below the new root is joined."""
    for key in _EVALUATOR_PATHS:
        path = evaluator.get(key)
        if isinstance(path, str) and not os.path.isabs(path) and not _below(path, new):
            evaluator[key] = os.path.join(new, path)


def _below(path: str, root: str) -> bool:
    return _plain(path).startswith(_plain(root) + "/")


def _plain(path: str) -> str:
    """The path without a trailing slash, for comparison."""
    return path.rstrip("/")
