"""Transforms of mmdet that give the same samples in less time and memory.

Their options are those of mmdet's classes of the same names.
"""

from typing import Any

import cv2
import numpy as np
import torch
from mmdet.datasets import transforms as mmdet_transforms
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from swin_dense.datasets.masks import CroppedMasks
from swin_dense.errors import UserError
from swin_dense.registry import TRANSFORMS

_FLIP_CODES = {"horizontal": 1, "vertical": 0, "diagonal": -1}


@TRANSFORMS.register_module()
class LoadAnnotations(mmdet_transforms.LoadAnnotations):
    """Bitmap masks are drawn and kept inside their boxes only (:class:`CroppedMasks`)."""

    def _load_masks(self, results: dict[str, Any]) -> None:
        size = results["ori_shape"]
        if self.poly2mask:
            rles = [_to_rle(mask, *size) for mask in self._process_masks(results)]
            if all(tuple(rle["size"]) == tuple(size) for rle in rles):
                results["gt_masks"] = _cropped(rles, results)
                return
        super()._load_masks(results)


@TRANSFORMS.register_module()
class RandomFlip(mmdet_transforms.RandomFlip):
    """The flipped image is contiguous; the next transform need not copy a view with strides < 0."""

    def _flip(self, results: dict[str, Any]) -> None:
        image = results["img"]
        super()._flip(results)
        if image.dtype == np.uint8:
            flipped = cv2.flip(image, _FLIP_CODES[results["flip_direction"]])
            results["img"] = flipped.reshape(image.shape)  # OpenCV drops a single channel


@TRANSFORMS.register_module()
class PackDetInputs(mmdet_transforms.PackDetInputs):
    """Colour images are made planar by OpenCV."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """``inputs``: the image as a tensor ``(C, H, W)``; ``data_samples``: all else."""
        image = results.get("img")
        if image is None or image.ndim != 3 or image.dtype != np.uint8:
            return super().transform(results)
        planes = np.empty((image.shape[2], *image.shape[:2]), np.uint8)
        cv2.split(image, list(planes))
        rest = {key: value for key, value in results.items() if key != "img"}
        return {"inputs": torch.from_numpy(planes), **super().transform(rest)}


def _cropped(rles: list[dict[str, Any]], results: dict[str, Any]) -> CroppedMasks:
    try:
        return CroppedMasks.from_rles(rles, *results["ori_shape"])
    except ValueError as error:
        image = results.get("img_path")
        raise UserError(f"a mask of {image} is {error}: correct the annotation file") from error


def _to_rle(mask: dict[str, Any] | list[NDArray[Any]], height: int, width: int) -> dict[str, Any]:
    """Compressed run-length encoding of a COCO annotation, as mmdet obtains it.

    Also of a small object in the whole image: pycocotools rounds points on the sides of polygons,
    and where it rounds a tie depends on the point's place in the image.
    """
    if isinstance(mask, list):
        return coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    if isinstance(mask["counts"], list):
        return coco_mask.frPyObjects(mask, height, width)
    return mask
