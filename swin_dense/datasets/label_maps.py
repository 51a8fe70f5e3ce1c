"""Checks of a data set of images and label maps (semantic segmentation)."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import list_dir_or_file
from PIL import Image, UnidentifiedImageError

from swin_dense import config_tree
from swin_dense.errors import UserError

_IGNORED = 255
_EXIF_ORIENTATION = 0x0112
_SAMPLE_SIZE = 12  # label maps read; a data set that is wrong is wrong in nearly all of them


def check_label_maps(cfg: Any, dataset: dict, num_classes: int) -> list[str]:
    """Check folders, pairs and, of a sample, the pixels of a segmentation data set.

    Args:
        cfg: the whole config, for its scope.
        dataset: config of the data set, with ``data_prefix`` of ``img_path``, ``seg_map_path``.
        num_classes: how many classes label maps may contain.

    Returns:
        Warnings, a line each.

    Raises:
        UserError: a folder, an image or a label map is missing, or label maps do not fit the
            config; the message names the file and the fix.
    """
    img_dir = config_tree.resolve(dataset, dataset["data_prefix"]["img_path"])
    seg_dir = config_tree.resolve(dataset, dataset["data_prefix"]["seg_map_path"])
    for folder in (img_dir, seg_dir):
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: put the data there, or correct data_prefix")
    img_suffix = config_tree.dataset_option(cfg, dataset, "img_suffix") or ".jpg"
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
    lowest = 1 if config_tree.dataset_option(cfg, dataset, "reduce_zero_label") else 0
    sample = stems[:: -(-len(stems) // _SAMPLE_SIZE)]
    labelled = 0
    for stem in sample:
        path, image = seg_dir / (stem + seg_suffix), img_dir / (stem + img_suffix)
        labelled += _check_label_map(path, image, lowest, num_classes)
    if labelled:
        return []
    return [f"{seg_dir}: no pixel is labelled in the {len(sample)} label maps that were read"]


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


def _check_label_map(path: Path, image: Path, lowest: int, num_classes: int) -> bool:
    """Check one label map against its image; return whether any pixel is labelled."""
    labels = _open(path)
    if labels.mode not in ("L", "P", "1", "I", "I;16"):
        raise UserError(
            f"{path} is an image of mode {labels.mode}, not a label map: a label map has one "
            "channel, whose values are class indices (the full ADE20K's *_seg.png contain colours: "
            "use ADEChallengeData2016)"
        )
    picture = _open(image)
    size = picture.size
    if picture.getexif().get(_EXIF_ORIENTATION, 1) >= 5:  # OpenCV rotates the image as it reads it
        size = size[::-1]
    if labels.size != size:
        raise UserError(
            f"{path} is {labels.size[0]} x {labels.size[1]} pixels, but {image} is "
            f"{size[0]} x {size[1]}: a label map must have the size of its image"
        )
    values = np.unique(np.asarray(labels))
    kept = values[(values != _IGNORED) & (values >= lowest)]
    if kept.size and kept.max() >= lowest + num_classes:
        raise UserError(
            f"{path} contains the value {kept.max()}, but {num_classes} classes are numbered "
            f"{lowest} to {lowest + num_classes - 1}, and 255 is ignored: correct the label maps, "
            "the classes or reduce_zero_label"
        )
    return bool(kept.size)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        if path.suffix.lower() == ".png":
            image.load()
    except FileNotFoundError as error:
        raise UserError(f"no file {path}: add it, or correct the folder and suffix") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path} is truncated or not an image ({error}): replace it") from error
    return image
