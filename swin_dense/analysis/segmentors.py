"""One forward of a segmentor on a whole image."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config
from torch import Tensor


def crop_size(cfg: Config) -> int:
    """Side in pixels of the square crops that a segmentation config trains on."""
    size = cfg.model.data_preprocessor.get("size") or cfg.get("crop_size") or (512, 512)
    return size[0]


def forward_segmentor(model: Any, images: Tensor) -> Tensor:
    """Scores of an mmseg segmentor for ``(1, 3, H, W)``: ``(1, classes, H, W)``.

    Auxiliary heads serve training only and do not run.
    """
    return model.encode_decode(images, [{"img_shape": tuple(images.shape[2:])}])
