"""Checks of a data set of images and label maps (semantic segmentation)."""

import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.fileio import list_dir_or_file
from numpy.typing import NDArray
from PIL import Image

from swin_dense import config_tree
from swin_dense.datasets.image_files import UnreadableImageError, image_sizes
from swin_dense.datasets.names import shortened
from swin_dense.errors import UserError

_IGNORED = 255
_MOST_CLASSES = 255  # that label maps of 8 bits can tell from ignored pixels
# Label maps read: a data set that is wrong is wrong in nearly all of them. More are read while
# some class was not seen.
_FEWEST_READ, _MOST_READ = 12, 512
# By folder and list of images: parts of a data set may share a folder.
_found: dict[tuple[str, str], "ClassesFound"] = {}


class ClassesFound(NamedTuple):
    """How many label maps a part has, how many of them were read, and how many have each class."""

    maps: int
    read: int
    counts: dict[str, int]


def check_label_maps(
    cfg: Any, dataset: dict, classes: Sequence[str], skips: bool = False
) -> list[str]:
    """Check folders, pairs, sizes and, of a sample, the pixels of a segmentation data set.

    Args:
        cfg: the whole config, for its scope.
        dataset: config of the data set, with ``data_prefix`` of ``img_path``, ``seg_map_path``.
        classes: names of the classes that label maps may contain.
        skips: whether training skips files that cannot be used; then they are a warning.

    Returns:
        Warnings, a line each.

    Raises:
        UserError: a folder, an image or a label map is missing, or label maps do not fit the
            config; the message names the file and the fix.
    """
    if len(classes) > _MOST_CLASSES:
        raise UserError(
            f"the data set has {len(classes)} classes, but label maps are read with 8 bits, of "
            f"which 255 is ignored: use at most {_MOST_CLASSES} classes"
        )
    files = label_map_files(cfg, dataset)
    images, maps = [image for image, _ in files], [place for _, place in files]
    seg_dir = config_tree.resolve(dataset, dataset["data_prefix"]["seg_map_path"])
    reduced = bool(config_tree.dataset_option(cfg, dataset, "reduce_zero_label"))
    warnings, found = _check_values(seg_dir, maps, classes, reduced, skips)
    _found[_part(dataset)] = found
    return warnings + _check_sizes(images, maps, config_tree.turns_images(dataset), skips)


def label_map_files(cfg: Any, dataset: dict) -> list[tuple[Path, Path]]:
    """Each image of a segmentation data set with its label map, all of which are there.

    Raises:
        UserError: a folder, an image or a label map is missing.
    """
    img_dir = config_tree.resolve(dataset, dataset["data_prefix"]["img_path"])
    seg_dir = config_tree.resolve(dataset, dataset["data_prefix"]["seg_map_path"])
    for folder in (img_dir, seg_dir):
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: put the data there, or correct data_prefix")
    img_suffix = config_tree.dataset_option(cfg, dataset, "img_suffix")
    img_suffix = ".jpg" if img_suffix is None else img_suffix  # empty where files are listed
    seg_suffix = config_tree.dataset_option(cfg, dataset, "seg_map_suffix") or ".png"
    stems = _stems(dataset, img_dir, img_suffix)
    if not stems:
        raise UserError(f"no images *{img_suffix} in {img_dir}: put them there, or set img_suffix")
    missing = missing_files([stem + seg_suffix for stem in stems], seg_dir)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(stems)} images in {img_dir} have no label map in {seg_dir}, "
            f"the first is {missing[0]}: add the label maps, or set seg_map_suffix"
        )
    return [(img_dir / (stem + img_suffix), seg_dir / (stem + seg_suffix)) for stem in stems]


def _check_sizes(images: list[Path], maps: list[Path], turned: bool, skips: bool) -> list[str]:
    """Compare the headers of all images with those of their label maps."""
    problems = []
    image_headers, map_headers = image_sizes(images, turned), image_sizes(maps, turned=False)
    for image, path, size, found in zip(images, maps, image_headers, map_headers, strict=True):
        if isinstance(size, UnreadableImageError) or isinstance(found, UnreadableImageError):
            file, reason = (image, size) if isinstance(size, Exception) else (path, found)
            problems.append(f"{file} is truncated or not an image ({reason}): replace it")
        elif found != size:
            problems.append(
                f"{path} is {found[0]} x {found[1]} pixels, but {image} is {size[0]} x {size[1]}: "
                "a label map must have the size of its image"
            )
    if not problems:
        return []
    summary = f"{len(problems)} of {len(images)} images cannot be used, the first: {problems[0]}"
    if skips:
        return [f"{summary}; training skips them"]
    raise UserError(f"{summary}, or train with --skip-bad-images")


def _check_values(
    folder: Path, maps: list[Path], classes: Sequence[str], reduced: bool, skips: bool
) -> tuple[list[str], ClassesFound]:
    """Check which values a sample of the label maps has; return warnings, and what they have."""
    lowest = 1 if reduced else 0
    in_maps = np.zeros(256, int)
    order = random.Random(0).sample(maps, len(maps))
    read = 0
    for path in order:
        labels = _label_map(path, skips)
        if labels is None:
            continue
        read += 1
        in_maps += _values(path, labels, lowest, len(classes))
        seen = in_maps > 0
        # 255 instead of 1: read on until another class shows that 255 does mean "ignored".
        is_binary = not reduced and np.flatnonzero(seen).tolist() == [0, _IGNORED]
        enough = _FEWEST_READ if seen[lowest : lowest + len(classes)].all() else _MOST_READ
        if read >= enough and not is_binary:
            break
    if read and is_binary and len(classes) > 1:
        raise UserError(
            f"the {read} label maps of {folder} contain the values 0 and 255 alone, and 255 is "
            f"ignored, so that no pixel is {classes[1]}: save them with the values 0 to "
            f"{len(classes) - 1}"
        )
    counts = in_maps[lowest : lowest + len(classes)].tolist()
    found = ClassesFound(len(maps), read, dict(zip(classes, counts, strict=True)))
    present = seen[lowest : lowest + len(classes)]
    if not present.any():
        return [f"{folder}: no pixel is labelled in the {read} label maps that were read"], found
    absent = [name for name, there in zip(classes, present, strict=True) if not there]
    if not absent:
        return [], found
    where = f"none of the {read} label maps that were read"
    number = f"{len(absent)} of {len(classes)} classes"
    return [f"{folder}: {number} are in {where}: {shortened(absent)}"], found


def classes_found(dataset: dict) -> ClassesFound | None:
    """What the last check has found in a segmentation data set; None if it was not checked."""
    return _found.get(_part(dataset))


def _part(dataset: dict) -> tuple[str, str]:
    folder = (dataset.get("data_prefix") or {}).get("seg_map_path") or ""
    return str(config_tree.resolve(dataset, folder)), str(dataset.get("ann_file") or "")


def _label_map(path: Path, skips: bool) -> NDArray[Any] | None:
    """A label map as an array; None if it cannot be read and training skips it."""
    try:
        with Image.open(path) as image:
            mode, labels = image.mode, np.asarray(image)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError ...
        if skips:
            return None
        raise UserError(f"{path} is truncated or not an image ({error}): replace it") from error
    if mode not in ("L", "P", "1", "I", "I;16"):
        raise UserError(
            f"{path} is an image of mode {mode}, not a label map: a label map has one "
            "channel, whose values are class indices (the full ADE20K's *_seg.png contain colours: "
            "use ADEChallengeData2016)"
        )
    return labels


def _values(path: Path, labels: NDArray[Any], lowest: int, num_classes: int) -> NDArray[np.bool_]:
    """Which of the values 0 to 255 a label map has, all of which must mean something."""
    outside = labels[labels > _IGNORED] if labels.dtype.itemsize > 1 else labels[:0]
    if outside.size:
        raise UserError(
            f"{path} contains the value {outside.max()}, but label maps are read with 8 bits: "
            f"number the classes {lowest} to {lowest + num_classes - 1}"
        )
    seen = np.bincount(labels.astype(np.uint8).ravel(), minlength=_IGNORED + 1) > 0
    wrong = np.flatnonzero(seen[lowest + num_classes : _IGNORED])
    if wrong.size:
        raise UserError(
            f"{path} contains the value {wrong[-1] + lowest + num_classes}, but {num_classes} "
            f"classes are numbered {lowest} to {lowest + num_classes - 1}, and 255 is ignored: "
            "correct the label maps, the classes or reduce_zero_label"
        )
    return seen


def missing_files(names: Iterable[str], folder: Path) -> list[str]:
    """Return those of the files ``names``, relative to ``folder``, that are not there."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, base = os.path.split(name)
        if parent not in present:
            directory = folder / parent
            present[parent] = set(os.listdir(directory)) if directory.is_dir() else set()
        if base not in present[parent]:
            missing.append(name)
    return missing


def _stems(dataset: dict, img_dir: Path, suffix: str) -> list[str]:
    """Return the images' paths in ``img_dir`` without suffix, listed by a split file if any."""
    split = dataset.get("ann_file")
    if split:
        path = config_tree.resolve(dataset, split)
        if not path.is_file():
            raise UserError(f"no file {path}, which lists the images: correct or remove ann_file")
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    names = list_dir_or_file(img_dir, list_dir=False, suffix=suffix, recursive=True)
    return sorted(name[: -len(suffix)] for name in names)
