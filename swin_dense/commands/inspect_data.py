"""Checks a data set as a training would, and writes a page that shows what is in it."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import Progress

from swin_dense import config_tree
from swin_dense.datasets.check import check_data
from swin_dense.datasets.formats.map_folders import find_maps
from swin_dense.datasets.formats.recognise import has_boxes
from swin_dense.datasets.inspection import (
    Item,
    Suspicion,
    duplicates,
    read_items,
    suspicions,
)
from swin_dense.engine.config.prepare import load_config
from swin_dense.engine.terminal.console import notify_user, quiet_terminal
from swin_dense.errors import UserError
from swin_dense.files import write_json
from swin_dense.reports.data import Inspection, data_page

# Configs for a folder without one: of boxes and masks, and of label maps.
_DETECTOR, _SEGMENTOR = "cascade_swin_nano_own", "upernet_swin_t_ade20k"


def inspect_data(
    source: str | Path,
    out: str | Path,
    data_root: str | None = None,
    classes: Sequence[str] | None = None,
    samples: int = 12,
    seed: int = 0,
    cfg_options: Mapping[str, Any] | None = None,
) -> None:
    """Check a data set and write ``index.html`` and ``suspicious.json``.

    Args:
        source: a config, or a folder with a data set in a format that ``own_data`` recognises.
        out: folder of what is written.
        data_root: folder of the data, for every data set of the config.
        classes: of label maps in a folder, if no file names them.
        samples: pictures of each kind.
        seed: which pictures are shown, and how they are augmented.
        cfg_options: dotted keys of the config and their new values.

    Raises:
        UserError: the data set would not train; the page is written all the same, if some of it
            can be read.
    """
    out = Path(out)
    if samples < 0:
        raise UserError(f"--samples {samples}: give 0 or more")
    with quiet_terminal():
        notes: list[str] = []

        def tell(line: str) -> None:
            notes.append(line)
            notify_user(line)

        cfg = _config(Path(source), data_root, classes, dict(cfg_options or {}), tell)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        found = Inspection(cfg=cfg, name=str(source), samples=samples, notes=notes)
        for split in _splits(cfg):
            _inspect_part(found, split)
        if not any(found.parts.values()):
            raise UserError(found.problems[0] if found.problems else f"{source} has no data")
        _compare(found)
        try:
            out.mkdir(parents=True, exist_ok=True)
            data_page(found).write(out / "index.html")
            write_json(out / "suspicious.json", _entries(found))
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror or error}") from error
        _tell(found, out / "index.html")


def _config(
    source: Path,
    data_root: str | None,
    classes: Sequence[str] | None,
    options: dict[str, Any],
    tell: Callable[[str], object],
) -> Config:
    """The config, or one for the folder."""
    if not source.is_dir():
        return load_config(source, options, data_root, from_scratch=True, tell=tell)
    if data_root is not None:
        raise UserError("--data-root is for a config; give the folder of the data alone")
    is_maps = not has_boxes(source) and find_maps(source) is not None
    options["own_data.root"] = str(source)
    if classes:
        options["own_data.classes"] = tuple(classes)
    config = _SEGMENTOR if is_maps else _DETECTOR
    return load_config(config, options, from_scratch=True, tell=tell)


def _splits(cfg: Config) -> list[str]:
    """The parts that have data of their own: often, validation is also the test."""
    found: dict[str, str] = {}
    for split in ("train", "val", "test"):
        places = [
            (dataset.get("data_root"), dataset.get("ann_file"), dataset.get("data_prefix"))
            for dataset in config_tree.split_datasets(cfg, split)
        ]
        if places and str(places) not in found.values():
            found[split] = str(places)
    return list(found)


def _inspect_part(found: Inspection, split: str) -> None:
    try:
        found.warnings += check_data(found.cfg, [split])
    except UserError as error:
        found.problems.append(str(error))
        found.broken.add(split)
    try:
        items = read_items(found.cfg, split)
    except Exception:  # of data that are wrong, as the check has told
        if split not in found.broken:
            raise
        return
    found.parts[split] = items
    found.suspicions += suspicions(items, found.classes, split)


def _compare(found: Inspection) -> None:
    count = sum(map(len, found.parts.values()))
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("comparing images", total=count)
        found.suspicions += duplicates(found.parts, lambda: progress.advance(task))


def _entries(found: Inspection) -> list[dict[str, Any]]:
    notes = [{"kind": "own_data", "part": "", "images": [], "what": note} for note in found.notes]
    return [*(_entry(one) for one in found.suspicions), *notes]


def _entry(one: Suspicion) -> dict[str, Any]:
    paths = [os.path.abspath(path) for path in one.paths]
    entry = {"kind": one.kind, "part": one.split, "images": paths, "what": one.what}
    return entry if one.box is None else {**entry, "annotation": one.box.id}


def _tell(found: Inspection, page: Path) -> None:
    for split, items in found.parts.items():
        notify_user(f"{split}: {count_of(items)}")
    for warning in found.warnings:
        notify_user(f"warning: {warning}")
    kinds = {kind: sum(s.kind == kind for s in found.suspicions) for kind in found.kinds}
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    notify_user(f"suspicious: {listed or 'nothing'}")
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise UserError(f"{found.problems[0]}{more}; the page is {page}")
    notify_user(f"the checks of a training pass; the page is {page}")


def count_of(items: Sequence[Item]) -> str:
    """Images and objects, in words."""
    objects = sum(len(item.boxes) for item in items)
    without = sum(not item.boxes and not item.pixels for item in items)
    counted = f", {objects} objects" if objects else ""
    return f"{len(items)} images{counted}" + (f", {without} without labels" if without else "")
