"""What ``own_data`` needs to know of a folder, found out from what is in it."""

import json
import os
from pathlib import Path
from typing import Any

from swin_dense.datasets.coco_file import read_coco
from swin_dense.datasets.formats import coco
from swin_dense.datasets.formats.boxes import BoxData, held_out_note, hold_out
from swin_dense.datasets.formats.kept import keep_coco
from swin_dense.datasets.formats.splits import SPLITS, images_below
from swin_dense.datasets.formats.voc import FORM as VOC
from swin_dense.datasets.formats.voc import find_voc, read_voc
from swin_dense.datasets.formats.yolo import FORM as YOLO
from swin_dense.datasets.formats.yolo import find_yolo, read_yolo
from swin_dense.errors import UserError

_OF_OTHER_FORMATS = {".yaml": YOLO, ".yml": YOLO, ".txt": YOLO, ".xml": VOC}


def complete_boxes(own: dict[str, Any]) -> list[str]:
    """Complete an ``own_data`` of objects with boxes.

    Where it has a ``root`` alone, the format of that folder is recognised, and what is not COCO is
    converted; ``train``, ``val``, ``test`` and, where no object has one, ``masks=False`` are set.
    ``classes`` are set to those of the training file. Where an annotation file lacks what can be
    found out, or has other categories than ``classes``, a mended copy takes its place. Converted
    and mended files are kept in the cache folder; see :func:`keep_coco`.

    Args:
        own: changed in place.

    Returns:
        A line for each thing that was recognised, converted or put right.

    Raises:
        UserError: the folder is of no known format, or a file is missing or malformed.
    """
    notes = [] if "train" in own else _recognise(own)
    for split in SPLITS:
        if split in own and own[split] is not None:
            _check_ann_file(Path(own["root"], own[split]["ann_file"]))
    training = read_coco(Path(own["root"], own["train"]["ann_file"]))
    classes = tuple(own.get("classes") or coco.class_names(training))
    own["classes"] = classes
    notes += filter(None, [coco.group_note(training, classes)])
    for split in SPLITS:
        if own.get(split) is not None:
            notes += _mend(own, split, classes)
    return notes


def read_boxes(root: Path) -> BoxData | None:
    """Read a YOLO or VOC data set; None if the folder is neither."""
    if (voc := find_voc(root)) is not None:
        return read_voc(voc)
    if (yolo := find_yolo(root)) is not None:
        return read_yolo(yolo)
    return None


def has_boxes(root: Path) -> bool:
    """Whether a folder has a data set of objects in one of these formats."""
    return bool(coco.find_coco(root)) or find_voc(root) is not None or find_yolo(root) is not None


def _recognise(own: dict[str, Any]) -> list[str]:
    """Set the parts; returns what is said of them."""
    root = Path(own["root"])
    if not root.is_dir():
        raise UserError(f"no data root {root}: put the data there, or set --data-root DIR")
    if parts := coco.find_coco(root):
        return _use_coco(own, parts)
    data = read_boxes(root)
    if data is None:
        raise UserError(_unknown(root))
    img_dir = os.path.relpath(data.root, root)
    for split, content in data.contents.items():
        own[split] = {"ann_file": keep_coco(root, split, content), "img_dir": img_dir}
    files = ", ".join(own[split]["ann_file"] for split in data.contents)
    counts = ", ".join(f"{len(c['images'])} {s}" for s, c in data.contents.items())
    notes = [f"{data.root} is a {data.form} data set ({counts} images): converted to {files}"]
    if not data.has_masks and "masks" not in own:
        own["masks"] = False
        notes.append("not every object has a polygon, so boxes alone are trained")
    return notes + data.notes


def _use_coco(own: dict[str, Any], parts: dict[str, dict[str, str]]) -> list[str]:
    root = Path(own["root"])
    own.update(parts)
    names = ", ".join(f"{split} {part['ann_file']}" for split, part in parts.items())
    notes = [f"{root} is a COCO data set ({names})"]
    training = read_coco(root / parts["train"]["ann_file"])
    without = sum(len(i) for reasons in training.without_mask.values() for i in reasons.values())
    if without and without == training.count and "masks" not in own:
        own["masks"] = False
        notes.append("no object has a mask, so boxes alone are trained")
    if "val" not in parts:
        whole = json.loads(training.path.read_text(encoding="utf-8-sig"))
        for split, content in zip(("train", "val"), hold_out(whole), strict=True):
            own[split] = {**parts["train"], "ann_file": keep_coco(root, split, content)}
            held_out = len(content["images"])
        notes.append(held_out_note(held_out, whole["images"]))
        notes.append(f"the two parts are {own['train']['ann_file']} and {own['val']['ann_file']}")
    return notes


def _unknown(root: Path) -> str:
    found = sorted(path.name for path in root.iterdir())[:8]
    return (
        f"{root} is no data set that is recognised: it has {len(images_below(root))} images and "
        f"{', '.join(found) or 'nothing'}. Expected are COCO files (annotations/*.json, "
        "train/_annotations.coco.json), YOLO's data.yaml or Pascal VOC's Annotations/*.xml; or "
        "name ann_file and img_dir of train and val in own_data"
    )


def _check_ann_file(path: Path) -> None:
    """Say it if the annotation file is one of another format."""
    if path.is_dir() and next(path.glob("*.xml"), None):
        form = VOC
    elif path.is_dir() and next(path.glob("*.txt"), None):
        form = YOLO
    else:
        form = _OF_OTHER_FORMATS.get(path.suffix.lower(), "") if path.exists() else ""
    if form:
        raise UserError(
            f"{path} belongs to a {form} data set, and ann_file is a COCO file: leave train and "
            "val out of own_data, then root is recognised and converted"
        )


def _mend(own: dict[str, Any], split: str, classes: tuple[str, ...]) -> list[str]:
    root, part = Path(own["root"]), own[split]
    file = read_coco(root / part["ann_file"], need_annotations=split != "test")
    notes: list[str] = []
    if coco.needs_mending(file, classes):
        content, notes = coco.mended(file.path, root / part["img_dir"], classes)
        path = keep_coco(root, split, content)
        own[split] = {**part, "ann_file": path}
        notes.append(f"the mended copy, which is used, is {path}")
    if line := coco.unknown_classes(file, classes):
        notes.append(line)
    return notes
