"""Reading and checking COCO annotation files."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from swin_dense.datasets import segmentations
from swin_dense.datasets.formats.kept import cache_folder
from swin_dense.datasets.names import shortened
from swin_dense.errors import UserError

_ID = (int, str)
_NUMBER = (int, float)
_HIGHEST = 2**63  # of ids, and of numbers: beyond it, others fail to read them
_FAR = 10  # sides of the image: a box that reaches further outside is a mistake
_LONGEST = 80  # characters of a value in a message


@dataclass
class CocoFile:
    """What training and evaluation need to know of an annotation file, without its polygons.

    Attributes:
        path: the file.
        categories: names by category id, in the file's order, by which mmdet numbers labels.
        file_names: of the images, as in the file.
        sizes: (width, height) of the images in pixels, as the file says, in the same order.
        image_ids: ids of the images.
        usable: by category id, the largest short side, in pixels, of an image with an annotation
            that can be trained on (not a crowd, a box of at least one pixel).
        objects: by category id, how many annotations can be trained on.
        without_mask: by category id and reason, the ids of annotations whose segmentation cannot
            be drawn.
        fragments: ids of annotations with polygons of less than three points beside whole ones.
        without_iscrowd: number of annotations without that key, which evaluation needs.
        has_id_zero: whether an annotation has the id 0, which evaluations take for "no match".
        incomplete: what is missing that can be found out, ``"area"`` or ``"size"``, and where.
        supercategories: names of groups of categories.
        count: number of annotations.
        warnings: a line for each kind of annotation that will be skipped.
    """

    path: Path
    categories: dict[int, str] = field(default_factory=dict)
    file_names: list[str] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    image_ids: set = field(default_factory=set)
    usable: dict[int, int] = field(default_factory=dict)
    objects: dict[int, int] = field(default_factory=dict)
    without_mask: dict[int, dict[str, list]] = field(default_factory=dict)
    fragments: list = field(default_factory=list)
    without_iscrowd: int = 0
    has_id_zero: bool = False
    incomplete: dict[str, str] = field(default_factory=dict)
    supercategories: set[str] = field(default_factory=set)
    count: int = 0
    warnings: list[str] = field(default_factory=list)

    def ids_of(self, classes: Sequence[str]) -> list[int]:
        """Return the ids of the categories with these names."""
        return [key for key, name in self.categories.items() if name in classes]

    def error(self, problem: str) -> UserError:
        """Return an error of this file; ``problem`` says what is wrong and how to fix it."""
        return UserError(f"{self.path}: {problem}")


def read_coco(path: str | os.PathLike, need_annotations: bool = True) -> CocoFile:
    """Read and check a COCO annotation file; one that has not changed is read once.

    Args:
        path: JSON file with ``images``, ``annotations`` and ``categories``.
        need_annotations: False for a file of images only, such as that of a test server.

    Raises:
        UserError: the file is missing, is not COCO JSON, or would make a run fail later; the
            message names the file, the first wrong entry and the fix.
    """
    path = Path(path)
    if not path.is_file() and cache_folder() in path.parents:
        raise UserError(
            f"no annotation file {path}, which own_data makes: take the config that has own_data, "
            "not one that a run has written"
        )
    if not path.is_file():
        raise UserError(f"no annotation file {path}: add it, or correct ann_file")
    state = path.stat()
    return _read(path, need_annotations, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=4)
def _read(path: Path, need_annotations: bool, _state: tuple[int, ...]) -> CocoFile:
    content = _load(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is not a COCO annotation file: it contains a {type(content).__name__}, not "
            "an object with images, annotations and categories (results are a list): correct "
            "ann_file"
        )
    for key in ("images", "annotations", "categories"):
        if key == "annotations" and not need_annotations:
            content.setdefault(key, [])
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            found = "missing" if entries is None else "not a list of objects"
            raise UserError(
                f"{path} is not a COCO annotation file: {key} is {found} (it has "
                f"{', '.join(map(str, content)) or 'nothing'}); export it again in COCO format"
            )
    file = CocoFile(path)
    _read_categories(file, content["categories"])
    sizes = _read_images(file, content["images"])
    _read_annotations(file, content["annotations"], sizes)
    return file


def _load(path: Path) -> Any:
    """The file's content, with descriptions of the segmentations, which would fill the memory."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            return json.load(stream, object_hook=_described)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is truncated or not JSON (line {error.lineno}, column {error.colno}: "
            f"{error.msg}): download or export it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}): set ann_file to the annotation file"
        ) from error
    except RecursionError as error:
        raise UserError(
            f"{path} is nested too deeply to be a COCO annotation file: export it again"
        ) from error
    except ValueError as error:  # of a number with thousands of digits
        raise UserError(f"{path} cannot be read ({error}): export it again") from error


def _described(entry: dict[str, Any]) -> dict[str, Any]:
    if "segmentation" in entry:
        entry["segmentation"] = segmentations.describe(entry["segmentation"])
    return entry


def _read_categories(file: CocoFile, categories: list[dict]) -> None:
    for index, category in enumerate(categories):
        _require(file, "categories", index, category, {"id": int, "name": str})
        if category["id"] in file.categories or category["name"] in file.categories.values():
            raise file.error(
                f"category {category['id']} {category['name']!r} is duplicated: ids and names must "
                "be unique"
            )
        file.categories[category["id"]] = category["name"]
        file.supercategories.add(str(category.get("supercategory")))


def _read_images(file: CocoFile, images: list[dict]) -> dict[Any, tuple[float, float]]:
    """Fill in the images; return their (width, height) in pixels by id."""
    sizes: dict[Any, tuple[float, float]] = {}
    types = {"id": _ID, "file_name": str, "width": _NUMBER, "height": _NUMBER}
    for index, image in enumerate(images):
        for side in ("width", "height"):
            if image.get(side) is None:
                file.incomplete.setdefault("size", f"{side} of images[{index}] is missing")
                image[side] = _HIGHEST - 1  # nothing is outside of it
        _require(file, "images", index, image, types)
        if image["id"] in sizes:
            raise file.error(f"two images have id {image['id']!r}: ids must be unique")
        if not (image["width"] > 0 and image["height"] > 0):
            raise file.error(
                f"image {image['file_name']} has the size {image['width']} x "
                f"{image['height']} pixels: write its actual size"
            )
        sizes[image["id"]] = (image["width"], image["height"])
        file.file_names.append(image["file_name"])
    file.sizes = list(sizes.values())
    file.image_ids = set(sizes)
    return sizes


def _read_annotations(file: CocoFile, annotations: list[dict], sizes: dict) -> None:
    types = {"id": _ID, "image_id": _ID, "category_id": int, "bbox": list, "area": _NUMBER}
    ids: set = set()
    skipped: dict[str, list] = {}
    for index, annotation in enumerate(annotations):
        if annotation.get("area") is None:
            file.incomplete.setdefault("area", f"area of annotations[{index}] is missing")
            annotation["area"] = 1
        _require(file, "annotations", index, annotation, types)
        if annotation["id"] in ids:
            raise file.error(f"two annotations have id {annotation['id']!r}: ids must be unique")
        ids.add(annotation["id"])
        _read_crowd(file, annotation)
        category, size = annotation["category_id"], sizes.get(annotation["image_id"])
        reason = _why_skipped(file, annotation, size)
        if size is not None:
            _read_mask(file, annotation, *size)
        if reason:
            skipped.setdefault(reason, []).append(annotation["id"])
        elif not annotation.get("iscrowd") and not annotation.get("ignore"):
            short_side = int(min(sizes[annotation["image_id"]]))
            file.objects[category] = file.objects.get(category, 0) + 1
            file.usable[category] = max(file.usable.get(category, 0), short_side)
    file.has_id_zero, file.count = 0 in ids, len(annotations)
    for reason, which in skipped.items():
        file.warnings.append(
            f"{file.path}: {len(which)} of {len(annotations)} annotations will be skipped: they "
            f"{reason} (ids {shortened(which)})"
        )


def _read_crowd(file: CocoFile, annotation: dict) -> None:
    file.without_iscrowd += "iscrowd" not in annotation
    if annotation.get("iscrowd", 0) not in (0, 1):
        raise file.error(
            f"iscrowd of annotation {annotation['id']!r} is {_shown(annotation['iscrowd'])}: COCO "
            "format requires 0 or 1"
        )


def _read_mask(file: CocoFile, annotation: dict, width: float, height: float) -> None:
    found = annotation.get("segmentation", segmentations.NONE)
    problem = segmentations.problem(found, width, height)
    if problem:
        reasons = file.without_mask.setdefault(annotation["category_id"], {})
        reasons.setdefault(problem, []).append(annotation["id"])
    elif isinstance(found, segmentations.Polygons) and found.has_fragments:
        file.fragments.append(annotation["id"])


def _why_skipped(file: CocoFile, annotation: dict, size: tuple[float, float] | None) -> str | None:
    """Return why mmdet skips the annotation, or None; raise if it would fail on it."""
    box = annotation["bbox"]
    if len(box) != 4 or not all(_is_value(value, _NUMBER) for value in box):
        raise file.error(
            f"bbox of annotation {annotation['id']!r} is {_shown(box)}: COCO format requires "
            "four numbers, [x, y, width, height] in pixels"
        )
    if size is None:
        return "have an image_id that is not in images"
    if annotation["category_id"] not in file.categories:
        return "have a category_id that is not in categories"
    x, y, width, height = box
    if width < 1 or height < 1 or annotation["area"] <= 0:
        return "have a box of less than one pixel or no area"
    if x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0:
        return "have a box outside the image"
    reach = _FAR * max(size)
    if min(x, y) < -reach or max(x + width, y + height) > reach:
        raise file.error(
            f"bbox of annotation {annotation['id']!r} is {box}, but its image has {size[0]} x "
            f"{size[1]} pixels: correct it, [x, y, width, height] in pixels"
        )
    return None


def _require(file: CocoFile, key: str, index: int, entry: dict, types: dict[str, Any]) -> None:
    for name, kind in types.items():
        if not _is_value(entry.get(name), kind):
            found = "is missing" if name not in entry else f"is {_shown(entry[name])}"
            raise file.error(f"{name} of {key}[{index}] {found}: COCO format requires it")


def _is_value(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    if isinstance(value, str):
        return _is_text(value)
    return isinstance(value, list) or -_HIGHEST < value < _HIGHEST


def _is_text(value: str) -> bool:
    """Whether a name can be written: JSON may have halves of characters, and zeros."""
    try:
        return "\0" not in value and bool(os.fsencode(value))
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < _LONGEST else f"{text[:_LONGEST]}..."
