"""Reading and checking COCO annotation files."""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swin_dense.errors import UserError

_ID = (int, str)
_NUMBER = (int, float)


@dataclass
class CocoFile:
    """What training and evaluation need to know of an annotation file, without its polygons.

    Attributes:
        path: the file.
        categories: names by category id, in the file's order, by which mmdet numbers labels.
        file_names: of the images, as in the file.
        image_ids: ids of the images.
        usable: by category id, the largest short side, in pixels, of an image with an annotation
            that can be trained on (not a crowd, a box of at least one pixel).
        without_mask: by category id, number of annotations without segmentation.
        without_iscrowd: number of annotations without that key, which evaluation needs.
        warnings: a line for each kind of annotation that will be skipped.
    """

    path: Path
    categories: dict[int, str] = field(default_factory=dict)
    file_names: list[str] = field(default_factory=list)
    image_ids: set = field(default_factory=set)
    usable: dict[int, int] = field(default_factory=dict)
    without_mask: Counter = field(default_factory=Counter)
    without_iscrowd: int = 0
    warnings: list[str] = field(default_factory=list)

    def ids_of(self, classes: Sequence[str]) -> list[int]:
        """Return the ids of the categories with these names."""
        return [key for key, name in self.categories.items() if name in classes]

    def error(self, problem: str) -> UserError:
        """Return an error of this file; ``problem`` says what is wrong and how to fix it."""
        return UserError(f"{self.path}: {problem}")


def read_coco(path: str | os.PathLike, need_annotations: bool = True) -> CocoFile:
    """Read and check a COCO annotation file.

    Args:
        path: JSON file with ``images``, ``annotations`` and ``categories``.
        need_annotations: False for a file of images only, such as that of a test server.

    Raises:
        UserError: the file is missing, is not COCO JSON, or would make a run fail later; the
            message names the file, the first wrong entry and the fix.
    """
    path = Path(path)
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
    if not path.is_file():
        raise UserError(f"no annotation file {path}: add it, or correct ann_file")
    try:
        with path.open(encoding="utf-8-sig") as stream:
            return json.load(stream)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is truncated or not JSON (line {error.lineno}, column {error.colno}: "
            f"{error.msg}): download or export it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}): set ann_file to the annotation file"
        ) from error


def _read_categories(file: CocoFile, categories: list[dict]) -> None:
    for index, category in enumerate(categories):
        _require(file, "categories", index, category, {"id": int, "name": str})
        if category["id"] in file.categories or category["name"] in file.categories.values():
            raise file.error(
                f"category {category['id']} {category['name']!r} is duplicated: ids and names must "
                "be unique"
            )
        file.categories[category["id"]] = category["name"]


def _read_images(file: CocoFile, images: list[dict]) -> dict[Any, tuple[float, float]]:
    """Fill in the images; return their (width, height) in pixels by id."""
    sizes: dict[Any, tuple[float, float]] = {}
    types = {"id": _ID, "file_name": str, "width": _NUMBER, "height": _NUMBER}
    for index, image in enumerate(images):
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
    file.image_ids = set(sizes)
    return sizes


def _read_annotations(file: CocoFile, annotations: list[dict], sizes: dict) -> None:
    types = {"id": _ID, "image_id": _ID, "category_id": int, "bbox": list, "area": _NUMBER}
    ids: set = set()
    skipped: dict[str, list] = {}
    for index, annotation in enumerate(annotations):
        _require(file, "annotations", index, annotation, types)
        if annotation["id"] in ids:
            raise file.error(f"two annotations have id {annotation['id']!r}: ids must be unique")
        ids.add(annotation["id"])
        file.without_iscrowd += "iscrowd" not in annotation
        category = annotation["category_id"]
        file.without_mask[category] += not annotation.get("segmentation")
        reason = _why_skipped(file, annotation, sizes)
        if reason:
            skipped.setdefault(reason, []).append(annotation["id"])
        elif not annotation.get("iscrowd") and not annotation.get("ignore"):
            short_side = int(min(sizes[annotation["image_id"]]))
            file.usable[category] = max(file.usable.get(category, 0), short_side)
    for reason, which in skipped.items():
        file.warnings.append(
            f"{file.path}: {len(which)} of {len(annotations)} annotations will be skipped: they "
            f"{reason} (ids {', '.join(map(str, which[:5]))}{', ...' if len(which) > 5 else ''})"
        )


def _why_skipped(file: CocoFile, annotation: dict, sizes: dict) -> str | None:
    """Return why mmdet skips the annotation, or None; raise if it would fail on it."""
    box = annotation["bbox"]
    numbers = [v for v in box if isinstance(v, int | float) and math.isfinite(v)]
    if len(box) != 4 or len(numbers) != 4:
        raise file.error(
            f"bbox of annotation {annotation['id']!r} is {box}: COCO format requires "
            "four numbers, [x, y, width, height] in pixels"
        )
    if annotation["image_id"] not in sizes:
        return "have an image_id that is not in images"
    if annotation["category_id"] not in file.categories:
        return "have a category_id that is not in categories"
    x, y, width, height = numbers
    if width < 1 or height < 1 or annotation["area"] <= 0:
        return "have a box of less than one pixel or no area"
    image_width, image_height = sizes[annotation["image_id"]]
    if x >= image_width or y >= image_height or x + width <= 0 or y + height <= 0:
        return "have a box outside the image"
    return None


def _require(file: CocoFile, key: str, index: int, entry: dict, types: dict[str, Any]) -> None:
    for name, kind in types.items():
        value = entry.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            found = "is missing" if name not in entry else f"is {value!r}"
            raise file.error(f"{name} of {key}[{index}] {found}: COCO format requires it")
