"""COCO files in the layouts that people have, with what they lack filled in.

Besides COCO's own layout: Roboflow's (``train/_annotations.coco.json``), CVAT's and Label Studio's,
and files of any name beside a folder of images.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swin_dense.datasets.coco_file import CocoFile, read_coco
from swin_dense.datasets.formats.boxes import BoxData, polygon_area
from swin_dense.datasets.formats.splits import (
    SPLITS,
    sizes_of,
    split_folders,
    split_of,
)
from swin_dense.datasets.names import shortened
from swin_dense.errors import UserError

FORM = "COCO"
_PEEK = 1 << 16  # bytes at both ends of a file
_KEYS = (b'"images"', b'"annotations"', b'"categories"', b'"file_name"', b'"category_id"')
# COCO's files of other tasks about the same images.
_OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")
_TRIED = 3  # images that are looked for in a folder


def find_coco(root: Path) -> dict[str, dict[str, str]]:
    """Annotation files and image folders in a folder.

    Returns:
        For each part, ``ann_file`` and ``img_dir`` relative to ``root``, as ``own_data`` has them;
        ``train`` alone where no file is for validation. Empty if there are no COCO files.

    Raises:
        UserError: several files may be meant, or the images of one are in no folder.
    """
    if not root.is_dir():
        return {}
    files: dict[str | None, list[Path]] = {}
    for path in [*_candidates(root)]:
        files.setdefault(_split_of_file(path, root), []).append(path)
    whole = files.pop(None, [])
    if "train" not in files and whole:
        files["train"] = whole
    parts = {}
    for split in SPLITS:
        paths = files.get(split, [])
        if len(paths) > 1:
            raise UserError(
                f"{root} has several annotation files for {split}: {shortened(paths)}: leave one, "
                "or name ann_file and img_dir in own_data"
            )
        if paths and not (split == "test" and not read_coco(paths[0], False).usable):
            folder = _image_folder(paths[0], root, split)
            names = (os.path.relpath(paths[0], root), os.path.relpath(folder, root))
            parts[split] = {"ann_file": names[0], "img_dir": names[1]}
    return parts if "train" in parts else {}


def _candidates(root: Path) -> list[Path]:
    folders = [root, root / "annotations", *split_folders(root).values()]
    found = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    found = [path for path in found if _is_coco(path)]
    main = [path for path in found if not path.stem.startswith(_OTHER_TASKS)]
    return main or found


def _is_coco(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_PEEK)
        file.seek(max(0, path.stat().st_size - _PEEK))
        ends = head + file.read()
    is_object = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    return is_object and sum(key in ends for key in _KEYS) > 1


def _split_of_file(path: Path, root: Path) -> str | None:
    return split_of(path.stem) or (split_of(path.parent.name) if path.parent != root else None)


def _image_folder(path: Path, root: Path, split: str) -> Path:
    """The first of the usual folders that has the file's first images."""
    file = read_coco(path, need_annotations=False)
    if not file.file_names:
        raise UserError(f"{path} lists no images: export it again with its images")
    images = root / "images"
    folders = [path.parent, root / path.stem.rpartition("_")[2], root, images]
    folders += [root / "JPEGImages", root / "data", path.parent / "images", images / "default"]
    for parent in (root, images):
        named = split_folders(parent).get(split)
        folders += [named, named / "images"] if named else []
    for folder in folders:
        if all((folder / name).is_file() for name in file.file_names[:_TRIED]):
            return folder
    raise UserError(
        f"{path}: there is no image {file.file_names[0]} in {root} or its folders images and "
        f"{split}: put the images there, or name ann_file and img_dir in own_data"
    )


def class_names(file: CocoFile) -> tuple[str, ...]:
    """Its classes; without the group of all of them that Roboflow lists first, and never uses.

    Raises:
        UserError: there are none.
    """
    names = [name for name in file.categories.values() if name]
    groups = _groups(file) if len(names) > 1 else []
    classes = tuple(name for name in names if name not in groups)
    if not classes:
        raise UserError(f"{file.path} has no categories: export it again with its classes")
    return classes


def group_note(file: CocoFile, classes: Sequence[str]) -> str:
    """A line about what :func:`class_names` leaves out; else empty."""
    names = [name for name in _groups(file) if name not in classes]
    what = "the group of other categories and has no objects"
    return f"{file.path}: {shortened(names)} is {what}: it is left out" if names else ""


def _groups(file: CocoFile) -> list[str]:
    """Categories of which others are parts, and no object is."""
    unused = [name for key, name in file.categories.items() if key not in file.usable]
    return [name for name in unused if name in file.supercategories]


def needs_mending(file: CocoFile, classes: Sequence[str]) -> bool:
    """Whether :func:`mended` would change something."""
    listed = [name for name in file.categories.values() if name in classes]
    return bool(file.incomplete or file.without_iscrowd or listed != list(classes))


def mended(path: Path, folder: Path, classes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The content of an annotation file, with what it lacks.

    Args:
        path: a file that :func:`swin_dense.datasets.coco_file.read_coco` has read.
        folder: of its images.
        classes: names of all classes, in order.

    Returns:
        The content, and a line for each thing that was put right.
    """
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    content.setdefault("annotations", [])  # of a test set
    notes = [
        _add_sizes(content["images"], folder),
        _add_crowds(content["annotations"]),
        _add_areas(content["annotations"]),
        *_order_categories(content, classes),
    ]
    return content, [f"{path}: {note}" for note in notes if note]


def _add_sizes(images: list[dict[str, Any]], folder: Path) -> str:
    without = [i for i in images if i.get("width") is None or i.get("height") is None]
    missing = [i["file_name"] for i in without if not (folder / i["file_name"]).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} images are not in {folder}, the first is {missing[0]}: "
            "add them, or remove them from the annotation file"
        )
    for image, size in zip(
        without, sizes_of([folder / i["file_name"] for i in without]), strict=True
    ):
        image["width"], image["height"] = size
    return f"{len(without)} images have no size: it is read from them" if without else ""


def _add_crowds(annotations: list[dict[str, Any]]) -> str:
    without = [a for a in annotations if "iscrowd" not in a]
    for annotation in without:
        annotation["iscrowd"] = 0
    return f"{len(without)} annotations have no iscrowd: it is taken as 0" if without else ""


def _add_areas(annotations: list[dict[str, Any]]) -> str:
    without = [a for a in annotations if a.get("area") is None]
    for annotation in without:
        shape = annotation.get("segmentation")
        polygons = shape if isinstance(shape, list) and shape else []
        try:
            area = sum(polygon_area(polygon) for polygon in polygons)
        except (TypeError, ValueError):  # the check tells what is wrong with it
            area = 0
        annotation["area"] = area or annotation["bbox"][2] * annotation["bbox"][3]
    what = "computed from their polygons and boxes"
    return f"{len(without)} annotations have no area: it is {what}" if without else ""


def _order_categories(content: dict[str, Any], classes: Sequence[str]) -> list[str]:
    """Bring the categories into the order of ``classes``, by which labels are numbered."""
    by_name = {category["name"]: category for category in content["categories"]}
    listed = [name for name in by_name if name in classes]
    absent = [name for name in classes if name not in by_name]
    free = max((c["id"] for c in content["categories"]), default=0) + 1
    for number, name in enumerate(absent, start=free):
        by_name[name] = {"id": number, "name": name}
    others = [c for c in content["categories"] if c["name"] not in classes]
    used = {annotation["category_id"] for annotation in content["annotations"]}
    wholes = {category.get("supercategory") for category in content["categories"]}
    groups = [c["name"] for c in others if c["name"] in wholes and c["id"] not in used]
    others = [c for c in others if c["name"] not in groups]
    content["categories"] = [*(by_name[name] for name in classes), *others]
    notes = []
    if absent:
        notes.append(f"it has no categories {shortened(absent)}: they are added, without objects")
    if listed != [name for name in classes if name in listed]:
        notes.append(f"its categories are brought into the order of training: {shortened(classes)}")
    return notes


def unknown_classes(file: CocoFile, classes: Sequence[str]) -> str:
    """A line about objects that are not evaluated, as training has no such class; else empty."""
    names = [n for k, n in file.categories.items() if n not in classes and k in file.usable]
    return (
        f"{file.path}: objects of {shortened(names)} are left out, as training has no such class"
        if names
        else ""
    )


def read_folder(root: Path, classes: Sequence[str] | None = None) -> BoxData | None:
    """Read the COCO files in a folder, with what they lack; None if there are none.

    Args:
        root: the folder.
        classes: names in the order that they shall have; else those of the training file.

    Raises:
        UserError: a file is malformed; names it.
    """
    parts = find_coco(root)
    if not parts:
        return None
    training = read_coco(root / parts["train"]["ann_file"])
    names = tuple(classes or class_names(training))
    data = BoxData(FORM, root)
    data.notes += filter(None, [group_note(training, names)])
    for split, part in parts.items():
        file = read_coco(root / part["ann_file"], need_annotations=split != "test")
        content, notes = mended(file.path, root / part["img_dir"], names)
        for image in content["images"]:
            place = os.path.join(part["img_dir"], image["file_name"])
            image["file_name"] = os.path.normpath(place)
        data.contents[split] = content
        data.notes += notes
    data.complete()
    return data
