"""What is in a data set, and what in it looks like a mistake, without loading a model."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from swin_dense import config_tree
from swin_dense.datasets.image_files import UnreadableImageError, check_header, image_sizes
from swin_dense.datasets.label_maps import label_map_files

TINY = 4
"""Pixels: a box with a shorter side is tiny."""
HUGE = 0.95
"""Of the image: a larger box is huge."""
SAME = 0.95
"""Intersection over union above which two boxes of a class are one object labelled twice."""
_THREADS = 8
_SIDE = 16  # pixels of the small picture by which images are compared
_CONTRAST = 8.0  # standard deviation of its values below which an image is too plain for that
_DIFFERENT = 20  # of the 256 comparisons, in images that are the same
_BLOCK = 512  # images that are compared with all others at once
_MOST_PAIRS = 400  # boxes of one class in an image that are compared with each other


class Box(NamedTuple):
    """An object: its class, its box in pixels of the image, and the id of its annotation."""

    label: int
    x: float
    y: float
    width: float
    height: float
    id: Any
    is_crowd: bool


@dataclass
class Item:
    """An image with its labels.

    Attributes:
        path: the image file.
        size: (width, height) in pixels; None if it cannot be read.
        boxes: its objects; empty for label maps.
        pixels: of a label map, how many pixels each class has.
    """

    path: Path
    size: tuple[int, int] | None
    boxes: list[Box] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)


class Suspicion(NamedTuple):
    """Something that may be a mistake.

    Attributes:
        kind: ``tiny``, ``huge``, ``outside``, ``labelled twice``, ``unlabelled``, ``duplicate`` or
            ``leak``.
        split: the part.
        paths: the images.
        what: a description.
        box: the object, if it is one.
    """

    kind: str
    split: str
    paths: tuple[Path, ...]
    what: str
    box: Box | None = None


def read_items(cfg: Any, split: str) -> list[Item]:
    """Read all images and labels of ``train``, ``val`` or ``test``.

    Annotations must have passed :func:`swin_dense.datasets.check.check_data`. Images that are
    trained on without labels are left out.
    """
    items = []
    for dataset in config_tree.split_datasets(cfg, split):
        prefix = dataset.get("data_prefix") or {}
        classes = config_tree.class_names(cfg, dataset)
        if "seg_map_path" in prefix:
            items += _read_maps(cfg, dataset, len(classes))
        elif not config_tree.is_unlabeled(dataset) and str(dataset.get("ann_file")).endswith(
            "json"
        ):
            items += _read_coco(dataset, classes)
    return items


def suspicions(items: Sequence[Item], classes: Sequence[str], split: str) -> list[Suspicion]:
    """Objects that are tiny, huge, outside of their image or labelled twice, images without any."""
    found = []
    for item in items:
        if item.size is None:
            continue
        if not item.boxes and not item.pixels:
            found.append(Suspicion("unlabelled", split, (item.path,), "no labels"))
        for box in item.boxes:
            for kind, what in _of_box(box, *item.size):
                text = f"{classes[box.label]}, annotation {box.id}: {what}"
                found.append(Suspicion(kind, split, (item.path,), text, box))
        for one, other in _twice(item.boxes):
            text = f"{classes[one.label]}, annotations {one.id} and {other.id}"
            found.append(Suspicion("labelled twice", split, (item.path,), text, one))
    return found


def duplicates(
    parts: Mapping[str, Sequence[Item]], on_image: Callable[[], object] = lambda: None
) -> list[Suspicion]:
    """Images that are in a part twice, and those that are in training and in another part.

    Files with the same bytes are found, and images that are the same but for their size or
    compression: reduced to 16 x 16 grey pixels, the same neighbours are brighter, but for 20 of
    256. In 252 photographs of COCO, ADE20K and another set, those of different things differed in
    55 and more; halved and compressed again, 99% of them differed in 18 at most. Plain images, of
    which that says little, are compared by their bytes alone.

    Args:
        parts: images of each part, ``train`` first.
        on_image: is called after each image, for progress.
    """
    listed = {
        (s, os.path.abspath(i.path)): (s, i.path) for s, items in parts.items() for i in items
    }
    places = list(listed.values())
    same: dict[str, list[int]] = {}
    pictures: dict[int, NDArray[np.bool_]] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        looked = threads.map(_look, [path for _, path in places])
        for index, (digest, picture) in enumerate(looked):
            on_image()
            same.setdefault(digest or f"unreadable {index}", []).append(index)
            if picture is not None and same[digest] == [index]:  # once for each file
                pictures[index] = picture
    pairs = [(a, b, "the same file") for group in same.values() for a, b in pairwise(group)]
    pairs += [(a, b, "the same picture") for a, b in _alike(pictures)]
    return [_pair(places[a], places[b], how) for a, b, how in sorted(pairs)]


def _pair(one: tuple[str, Path], other: tuple[str, Path], how: str) -> Suspicion:
    (split, path), (other_split, other_path) = one, other
    kind, where = "duplicate", split
    if split != other_split:
        kind, where = "leak", f"{split} and {other_split}"
    return Suspicion(kind, where, (path, other_path), f"{how} in {where}")


def _alike(pictures: dict[int, NDArray[np.bool_]]) -> Iterator[tuple[int, int]]:
    """Pairs of pictures that differ little; of a third one that is like both, one pair."""
    if not pictures:
        return
    indices = np.array(list(pictures))
    signs = np.where(np.array(list(pictures.values())), np.float32(1), np.float32(-1))
    for start in range(0, len(indices), _BLOCK):
        agreement = signs[start : start + _BLOCK] @ signs.T  # agreeing pixels less the others
        rows, columns = np.nonzero(agreement >= _SIDE * _SIDE - 2 * _DIFFERENT)
        first: dict[int, int] = {}
        for row, column in zip((rows + start).tolist(), columns.tolist(), strict=True):
            if column < row and first.setdefault(row, column) == column:
                yield int(indices[column]), int(indices[row])


def _read_coco(dataset: dict, classes: Sequence[str]) -> Iterator[Item]:
    path = config_tree.resolve(dataset, dataset["ann_file"])
    folder = config_tree.resolve(dataset, dataset["data_prefix"]["img"])
    with path.open(encoding="utf-8-sig") as file:
        content = json.load(file, object_hook=_without_shape)
    names = {category["id"]: category["name"] for category in content.get("categories", ())}
    labels = {key: classes.index(name) for key, name in names.items() if name in classes}
    items = {
        image["id"]: Item(folder / image["file_name"], (image["width"], image["height"]))
        for image in content["images"]
    }
    for one in content.get("annotations", ()):
        if one["image_id"] in items and one["category_id"] in labels:
            x, y, width, height = one["bbox"]
            label, is_crowd = labels[one["category_id"]], bool(one.get("iscrowd"))
            box = Box(label, x, y, width, height, one["id"], is_crowd)
            items[one["image_id"]].boxes.append(box)
    yield from items.values()


def _without_shape(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def _read_maps(cfg: Any, dataset: dict, classes: int) -> list[Item]:
    files = label_map_files(cfg, dataset)
    lowest = int(bool(config_tree.dataset_option(cfg, dataset, "reduce_zero_label")))
    sizes = image_sizes([image for image, _ in files])

    def read(pair: tuple[tuple[Path, Path], Any]) -> Item:
        (image, place), size = pair
        item = Item(image, None if isinstance(size, UnreadableImageError) else size)
        try:
            with Image.open(place) as label_map:
                counts = np.bincount(np.asarray(label_map, np.int64).ravel(), minlength=256)
        except (OSError, SyntaxError, ValueError):  # the check of the data tells of it
            return item
        counts = counts[lowest : lowest + classes]
        item.pixels = Counter({i: int(n) for i, n in enumerate(counts) if n})
        return item

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(read, zip(files, sizes, strict=True)))


def _of_box(box: Box, width: int, height: int) -> Iterator[tuple[str, str]]:
    size = f"{box.width:.4g} x {box.height:.4g} pixels"
    if min(box.width, box.height) < TINY:
        yield "tiny", size
    if box.width * box.height > HUGE * width * height and not box.is_crowd:
        yield "huge", f"{size} of {width} x {height}"
    beyond = max(-box.x, -box.y, box.x + box.width - width, box.y + box.height - height)
    if beyond > 1:
        yield "outside", f"{beyond:.4g} pixels beyond the image of {width} x {height}"


def _twice(boxes: Sequence[Box]) -> Iterator[tuple[Box, Box]]:
    """Pairs of boxes of one class that nearly cover each other."""
    by_label: dict[int, list[Box]] = {}
    for box in boxes:
        if not box.is_crowd and box.width > 0 and box.height > 0:
            by_label.setdefault(box.label, []).append(box)
    for same in by_label.values():
        for one, other in combinations(same[:_MOST_PAIRS], 2):
            width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            if width > 0 and height > 0:
                shared = width * height
                total = one.width * one.height + other.width * other.height - shared
                if shared > SAME * total:
                    yield one, other


def _look(path: Path) -> tuple[str, NDArray[np.bool_] | None]:
    """The hash of a file, and where its picture is brighter than to the left; None if plain."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "", None
    try:
        with Image.open(path) as image:
            check_header(image)
            image.draft("L", (8 * _SIDE, 8 * _SIDE))  # JPEGs are decoded to a fraction
            small = image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    except Exception:  # the check of the data tells of it
        return digest, None
    values = np.asarray(small, np.int16)
    if values.std() < _CONTRAST:
        return digest, None
    return digest, (values[:, 1:] > values[:, :-1]).ravel()
