"""Converts a data set to COCO files or label maps of class indices, which own_data reads."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swin_dense.datasets.formats.boxes import BoxData
from swin_dense.datasets.formats.coco import read_folder
from swin_dense.datasets.formats.maps import write_maps
from swin_dense.datasets.formats.recognise import read_boxes
from swin_dense.datasets.formats.recognise_maps import (
    find_own_maps,
    own_table,
    zero_is_unlabelled,
    zero_note,
)
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError
from swin_dense.files import write_text

_MAPS = "label_maps"


def convert_data(
    source: str | Path,
    target: str | Path,
    copy: bool = False,
    classes: Sequence[str] | None = None,
    label_maps: bool = False,
) -> None:
    """Convert a data set, and print the ``own_data`` that trains on it.

    Written are ``annotations/train.json``, ``val.json`` and perhaps ``test.json``, or
    ``label_maps/`` with lists of images; ``images`` is a link to their folder.

    Args:
        source: folder of a data set, or YOLO's data.yaml.
        target: a new folder. It comes into being when all is written.
        copy: copy the images instead.
        classes: names in the order that they shall have; else that of the data set.
        label_maps: convert label maps also where there are boxes.

    Raises:
        UserError: the data set is of no known format, malformed, or ``target`` exists.
    """
    source, target = Path(source), Path(target)
    _check_folders(source, target)
    own: dict[str, Any] = {"root": str(source), "classes": tuple(classes or ())}
    data = None if label_maps else read_folder(source, classes) or read_boxes(source)
    folder = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        folder.mkdir()
        if data is not None:
            own = _write_boxes(data, folder, copy, classes)
        else:
            own = _write_label_maps(own, folder, copy)
        folder.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    notify_user(f"written to {target}; a config that trains on it has, beside its base:\n")
    print(_as_text({"root": str(target), **own}))


def _check_folders(source: Path, target: Path) -> None:
    if not source.exists():
        raise UserError(f"no such folder: {source}")
    if target.exists():
        raise UserError(f"{target} exists: name a new folder")
    if not target.parent.is_dir():
        raise UserError(f"no such folder: {target.parent}")
    if Path(os.path.abspath(source)) in Path(os.path.abspath(target)).parents:
        raise UserError(f"{target} is in {source}: name a folder beside it")


def _write_boxes(
    data: BoxData, folder: Path, copy: bool, classes: Sequence[str] | None
) -> dict[str, Any]:
    """Write annotation files; returns the ``own_data`` without its root."""
    if classes:
        data.reorder(classes)
    counts = {split: len(content["images"]) for split, content in data.contents.items()}
    numbers = ", ".join(f"{count} {split}" for split, count in counts.items())
    objects = sum(len(content["annotations"]) for content in data.contents.values())
    notify_user(
        f"{data.root} is a {data.form} data set: {numbers} images, {objects} objects, "
        f"{len(data.classes)} classes"
    )
    for note in data.notes:
        notify_user(note)
    entries = [image for content in data.contents.values() for image in content["images"]]
    files = [os.path.abspath(data.root / image["file_name"]) for image in entries]
    names = _place_images(files, folder, copy)
    for image, file in zip(entries, files, strict=True):
        image["file_name"] = names[file]
    own: dict[str, Any] = {}
    (folder / "annotations").mkdir()
    for split, content in data.contents.items():
        own[split] = {"ann_file": f"annotations/{split}.json", "img_dir": "images"}
        write_text(folder / own[split]["ann_file"], json.dumps(content))
    return own if data.has_masks else own | {"masks": False}


def _write_label_maps(own: dict[str, Any], folder: Path, copy: bool) -> dict[str, Any]:
    """Write label maps; returns the ``own_data`` without its root."""
    found, table = find_own_maps(own), own_table(own)
    assert found is not None  # own has a root alone, and what is not recognised is an error
    numbers = ", ".join(f"{len(pairs)} {split}" for split, pairs in found.parts.items())
    notify_user(f"{found.root} has label maps: {numbers} images, {len(table.classes)} classes")
    for note in found.notes:
        notify_user(note)
    files = [os.path.abspath(i) for pairs in found.parts.values() for i, _ in pairs]
    _place_images(files, folder, copy)
    write_maps(folder, found.parts, table)
    converted: dict[str, Any] = {"classes": table.classes}
    if table.colours is not None:
        converted["palette"] = table.colours
    if zero_is_unlabelled([place for pairs in found.parts.values() for _, place in pairs], table):
        converted["reduce_zero_label"] = True
        notify_user(zero_note(table))
    for split in found.parts:
        converted[split] = {"img_dir": "images", "seg_dir": _MAPS, "ann_file": f"{split}.txt"}
    return converted | {"img_suffix": "", "seg_suffix": ".png"}


def _place_images(files: list[str], folder: Path, copy: bool) -> dict[str, str]:
    """Make ``images``; returns the name in it of each file."""
    base = os.path.commonpath([os.path.dirname(file) for file in files])
    names = {file: os.path.relpath(file, base) for file in files}
    if not copy:
        (folder / "images").symlink_to(base, target_is_directory=True)
        return names
    for file, name in names.items():
        place = folder / "images" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    return names


def _as_text(own: dict[str, Any]) -> str:
    """``own_data`` as it is written in a config."""
    lines = ["own_data = dict("]
    for key, value in own.items():
        if isinstance(value, dict):
            inner = ", ".join(f"{name}={one!r}" for name, one in value.items())
            lines.append(f"    {key}=dict({inner}),")
        else:
            lines.append(f"    {key}={value!r},")
    return "\n".join([*lines, ")"])
