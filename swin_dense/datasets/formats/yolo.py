"""YOLO data sets: a text file with a line for each object beside each image.

https://docs.ultralytics.com/datasets/detect and /segment, Darknet's ``obj.names``, and what
labelling tools write without a ``data.yaml``.
"""

import math
import os
from pathlib import Path
from typing import Any

import yaml

from swin_dense.compat.configs import SafeLoader
from swin_dense.datasets.formats.boxes import BoxData, Part
from swin_dense.datasets.formats.splits import (
    SPLITS,
    images_below,
    read_lines,
    sizes_of,
    split_folders,
)
from swin_dense.datasets.names import shortened
from swin_dense.errors import UserError

FORM = "YOLO"
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
_BOX = 5  # numbers of a line: class, centre x and y, width, height
_FEWEST = 7  # numbers of a polygon: class, and x and y of three points
_SLACK = 0.01  # that labelling tools go beyond the image, as a fraction of its side


def find_yolo(root: Path) -> Path | None:
    """The file that names the classes of a YOLO data set in a folder; None if there is no such set.

    Raises:
        UserError: there are several ``.yaml`` files that may describe it.
    """
    if root.is_file():
        return root if root.suffix in (".yaml", ".yml") else None
    found = [p for p in sorted(root.glob("*.y*ml")) if _describes(p)]
    named = [p for p in found if p.stem in ("data", "dataset")]
    if len(found) > 1 and len(named) != 1:
        raise UserError(
            f"{root} has several YOLO files, {shortened([p.name for p in found])}: "
            "leave one, or name it data.yaml"
        )
    if found:
        return (named or found)[0]
    folders = [root, root / "labels", *split_folders(root).values(), root / "obj_train_data"]
    names = [folder / name for folder in folders for name in _NAME_FILES]
    names = [path for path in names if path.is_file()]
    has_labels = names and any(path not in names for path in root.rglob("*.txt"))
    return names[0] if has_labels else None


def read_yolo(source: Path) -> BoxData:
    """Read a YOLO data set of boxes or polygons.

    Labels are where Ultralytics looks for them: the last ``images`` in an image's path is
    ``labels``, else beside the image. An image without labels has no objects. Of poses the boxes
    are read.

    Args:
        source: what :func:`find_yolo` returned.

    Raises:
        UserError: a file is missing or malformed; names it and the line.
    """
    description = _description(source)
    root = description["root"]
    data = BoxData(FORM, root)
    repeated = 0
    for split in SPLITS:
        images = _images(description, split, source)
        if not images:
            continue
        part = data.add_part(split, description["names"])
        labels = [_label_file(image) for image in images]
        if split != "test" and not any(path.is_file() for path in labels):
            raise UserError(
                f"none of the {len(images)} {split} images of {source} has labels, the first would "
                f"be {labels[0]}: put the label files there"
            )
        for image, path, size in zip(images, labels, sizes_of(images), strict=True):
            repeated += _read_labels(part, image, path, size, description)
    data.complete()
    if repeated:
        data.notes.append(f"{repeated} lines that repeat another one of their file are left out")
    return data


def _describes(path: Path) -> bool:
    try:
        content = _load(path)
    except UserError:
        return path.stem in ("data", "dataset")
    return (
        isinstance(content, dict)
        and "names" in content
        and ("train" in content or "val" in content)
    )


def _load(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError of dates and UTF-8
        raise UserError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from error


def _description(source: Path) -> dict[str, Any]:
    """Classes, folders and images that the file names; those of usual folders if it has none."""
    if source.suffix in (".yaml", ".yml"):
        content = _load(source)
        if not isinstance(content, dict):
            raise UserError(f"{source} is not a YOLO data set: it has no names, train and val")
        names, root = _names(content.get("names"), source), source.parent
        if (count := content.get("nc")) not in (None, len(names)):
            raise UserError(f"{source}: nc is {count}, but names has {len(names)}: correct one")
        parts = {**content, "val": content.get("val") or content.get("validation")}
        pose = content.get("kpt_shape") is not None
        base = Path(root, str(content.get("path") or ""))
        return {"names": names, "root": root, "base": base, "parts": parts, "pose": pose}
    names = [line for _, line in read_lines(source)]
    root = Path(os.path.abspath(source.parent))  # parts are below it, wherever the process is
    while root.name in ("labels", "obj_train_data") or root.parent in split_folders(root.parent):
        root = root.parent
    folder = root / "images" if (root / "images").is_dir() else root
    parts = {split: str(path) for split, path in split_folders(folder).items()}
    parts = parts or {"train": str(folder)}
    return {"names": names, "root": root, "base": root, "parts": parts, "pose": False}


def _names(names: Any, source: Path) -> list[str]:
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(
                f"{source}: names is numbered {shortened(list(names))}: number it from 0"
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{source}: names is {names!r}: list the names of the classes")
    names = [str(name).strip() for name in names]
    if len(set(names)) < len(names):
        twice = [name for name in names if names.count(name) > 1]
        raise UserError(
            f"{source}: names has {twice[0]!r} twice: each class needs a name of its own"
        )
    return names


def _images(description: dict[str, Any], split: str, source: Path) -> list[Path]:
    entries = description["parts"].get(split) or []
    found: list[Path] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        path = _place(str(entry), description)
        if path is None:
            if split == "test":
                continue  # Roboflow's files name one that is often not exported
            raise UserError(
                f"{source}: there is no {entry} ({split}) in {description['root']}: put the images "
                "there, or correct path and this line"
            )
        found += _listed(path) if path.is_file() else images_below(path)
    return found


def _place(entry: str, description: dict[str, Any]) -> Path | None:
    """Where a folder or list is: data are moved, and Roboflow writes ``../`` before each."""
    root = description["root"]
    nearer = entry
    while nearer.startswith("../"):
        nearer = nearer[len("../") :]
    for path in (description["base"] / entry, root / entry, root / nearer):
        if path.exists():
            return Path(os.path.abspath(path))
    return None


def _listed(path: Path) -> list[Path]:
    """The images that a text file lists, each relative to the file's folder or whole."""
    images = []
    for number, line in read_lines(path):
        images.append(Path(os.path.abspath(path.parent / line)))
        if not images[-1].is_file():
            raise UserError(f"{path} line {number}: there is no image {images[-1]}")
    return images


def _label_file(image: Path) -> Path:
    parts = list(Path(os.path.abspath(image)).with_suffix(".txt").parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts)


def _read_labels(
    part: Part, image: Path, path: Path, size: tuple[int, int], description: dict[str, Any]
) -> int:
    """Read the labels of one image; returns how many lines were repeated."""
    entry = part.add_image(image, size)
    lines = [(n, line.split()) for n, line in read_lines(path)] if path.is_file() else []
    seen = set()
    for number, words in lines:
        if tuple(words) in seen:
            continue
        seen.add(tuple(words))
        try:
            label, box, polygon = _object(words, len(description["names"]), description["pose"])
        except ValueError as error:
            raise UserError(f"{path} line {number}: {error}") from error
        width, height = size
        scaled = [value * (height if i % 2 else width) for i, value in enumerate(polygon)]
        left, top, right, bottom = box
        edges = (left * width, top * height, right * width, bottom * height)
        part.add_object(entry, label, edges, scaled)
    return len(lines) - len(seen)


def _object(words: list[str], classes: int, pose: bool) -> tuple[int, list[float], list[float]]:
    """Class, box (left, top, right, bottom) and polygon of a line, as fractions of the image."""
    values = [_number(word) for word in words[:_BOX] if pose] or [_number(word) for word in words]
    label = values[0]
    if not label.is_integer() or not 0 <= label < classes:
        raise ValueError(
            f"the class is {words[0]}, but {classes} classes are numbered 0 to "
            f"{classes - 1}: correct it or the names"
        )
    outside = [
        word
        for word, v in zip(words[1:], values[1:], strict=False)
        if not -_SLACK <= v <= 1 + _SLACK
    ]
    if outside:
        raise ValueError(
            f"{outside[0]} is outside of the image: coordinates are fractions of its "
            "width and height, 0 to 1"
        )
    if len(values) == _BOX:
        x, y, width, height = values[1:]
        return int(label), [x - width / 2, y - height / 2, x + width / 2, y + height / 2], []
    if len(values) < _FEWEST or len(values) % 2 == 0:
        raise ValueError(
            f"{len(values)} numbers: a box has 5 (class, centre x and y, width, "
            "height), a polygon 7, 9, 11 ... (class, x and y of each point)"
        )
    polygon = [min(max(value, 0.0), 1.0) for value in values[1:]]
    xs, ys = polygon[::2], polygon[1::2]
    return int(label), [min(xs), min(ys), max(xs), max(ys)], polygon


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{word!r} is not a number")
    return value
