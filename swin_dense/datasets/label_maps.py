"""Checks of a data set of images and label maps (semantic segmentation)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from swin_dense import config_tree
from swin_dense.errors import UserError

_IGNORED = 255
_EXIF_ORIENTATION = 0x0112
_SAMPLE = 12  # label maps read; a data set that is wrong is wrong in nearly all of them


def check_label_maps(cfg: Any, dataset: dict, num_classes: int) -> list[str]:
    """Check folders, pairs and, of a sample, the pixels of a segmentation data set.

    Args:
        cfg: the whole config, for its scope.
        dataset: config of the data set, with ``data_prefix`` of ``img_path``, ``seg_map_path``.
        num_classes: how many classes label maps may hold.

    Returns:
        Warnings, a line each.

    Raises:
        UserError: a folder, an image or a label map is missing, or label maps are not what the
            config takes them for; the message names the file and the mend.
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
        raise UserError(f"no image *{img_suffix} in {img_dir}: put them there, or set img_suffix")
    maps = set(_files(seg_dir, seg_suffix))
    missing = [stem for stem in stems if stem + seg_suffix not in maps]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(stems)} images in {img_dir} have no label map in {seg_dir}, "
            f"the first is {missing[0]}{seg_suffix}; add the maps, or set seg_map_suffix"
        )
    lowest = 1 if config_tree.dataset_option(cfg, dataset, "reduce_zero_label") else 0
    labelled = False
    sample = stems[:: -(-len(stems) // _SAMPLE)]
    for stem in sample:
        path = seg_dir / (stem + seg_suffix)
        labelled |= _check_map(path, img_dir / (stem + img_suffix), lowest, num_classes)
    if labelled:
        return []
    return [f"{seg_dir}: not a pixel is labelled in {len(sample)} label maps that were read"]


def _stems(dataset: dict, img_dir: Path, suffix: str) -> list[str]:
    """Return the images' paths in ``img_dir``, suffix taken off, in order; a split file's first."""
    split = dataset.get("ann_file")
    if split:
        path = config_tree.resolve(dataset, split)
        if not path.is_file():
            raise UserError(f"no file {path}, which lists the images: correct or drop ann_file")
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    return sorted(name[: -len(suffix)] for name in _files(img_dir, suffix))


def _files(folder: Path, suffix: str) -> list[str]:
    found = []
    for parent, _, names in os.walk(folder, followlinks=True):
        inner = os.path.relpath(parent, folder)
        found += [os.path.normpath(os.path.join(inner, n)) for n in names if n.endswith(suffix)]
    return found


def _check_map(path: Path, image: Path, lowest: int, num_classes: int) -> bool:
    """Check one label map against its image; return whether any pixel is labelled."""
    labels = _open(path)
    if labels.mode not in ("L", "P", "1", "I", "I;16"):
        raise UserError(
            f"{path} is an image of mode {labels.mode}, not a label map: a label map has one "
            "channel, whose values are class indices (the full ADE20K's *_seg.png hold colours; "
            "take ADEChallengeData2016)"
        )
    size = _shown_size(_open(image))
    if labels.size != size:
        raise UserError(
            f"{path} is {labels.size[0]} x {labels.size[1]} pixels, but {image} is "
            f"{size[0]} x {size[1]}; a label map has its image's size"
        )
    values = np.unique(np.asarray(labels))
    kept = values[(values != _IGNORED) & (values >= lowest)]
    if kept.size and kept.max() >= lowest + num_classes:
        raise UserError(
            f"{path} holds the value {kept.max()}, but {num_classes} classes are numbered "
            f"{lowest} to {lowest + num_classes - 1}, and 255 is ignored; correct the maps, the "
            "classes or reduce_zero_label"
        )
    return bool(kept.size)


def _shown_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) after the rotation by EXIF that OpenCV does as it reads."""
    width, height = image.size
    return (height, width) if image.getexif().get(_EXIF_ORIENTATION, 1) >= 5 else (width, height)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        if path.suffix.lower() == ".png":
            image.load()
    except FileNotFoundError as error:
        raise UserError(f"no file {path}: add it, or correct the folder and suffix") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path} is cut off or no image ({error}); make it anew") from error
    return image
