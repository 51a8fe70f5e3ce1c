"""InstaBoost (arXiv 1908.07801): instances are cut out, jittered, and pasted near where they were.

The authors' package fails with NumPy 1.24 and later on masks of two parts. This is the paper's
random variant; the appearance-guided one, which mmdet's configs do not use, is not implemented.
"""

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.sparse.csgraph import connected_components

from swin_dense.datasets.masks import CroppedMasks
from swin_dense.errors import UserError
from swin_dense.registry import TRANSFORMS

_BORDER = 10  # pixels; an instance that ends closer to the image's border is taken as truncated
_INPAINT_RADIUS = 3  # pixels
_UNKNOWN = 255  # label of the uncovered background behind a moved instance
# The authors' code draws each factor in tenths, from the first to the second. 1 changes nothing.
_COLOURS = (
    (ImageEnhance.Color, 0, 30),
    (ImageEnhance.Brightness, 10, 20),
    (ImageEnhance.Contrast, 10, 20),
    (ImageEnhance.Sharpness, 0, 30),
)

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@TRANSFORMS.register_module()
class InstaBoost(BaseTransform):
    """Shift, scale and rotate the instances of an image a little; the background is inpainted.

    Instances whose boxes overlap move together, so that they keep occluding each other. Those that
    end at the image's border only grow and never move away from it. Crowds and other ignored
    regions stay. Works on the image as it was read, after ``LoadAnnotations`` with masks, and
    changes ``img`` ``(H, W, 3)`` of uint8, ``gt_masks`` (to bitmaps, less what a later instance
    occludes), ``gt_bboxes`` (of moved instances: the boxes of the masks) and, if present,
    ``gt_seg_map``: labels move with their instances, and uncovered background is 255, "unknown".
    An instance that is fully occluded is removed. The colours of half of the images that are
    changed are jittered as a whole: saturation and sharpness by a factor of 0 to 3, brightness and
    contrast of 1 to 2.

    Args:
        prob: probability that an image is changed.
        scale: minimum and maximum factor of size.
        shift: maximum shift as a fraction of width and height.
        angle: maximum rotation in degrees, in both directions.
        color_prob: probability that the colours of a changed image are jittered.
    """

    def __init__(
        self,
        prob: float = 0.5,
        scale: tuple[float, float] = (0.8, 1.2),
        shift: float = 1 / 15,
        angle: float = 1.0,
        color_prob: float = 0.5,
    ) -> None:
        self.prob = prob
        self.scale = scale
        self.shift = shift
        self.angle = angle
        self.color_prob = color_prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``results`` in place, with NumPy's global random state, and return it.

        Raises:
            UserError: no masks were loaded.
        """
        if "gt_masks" not in results:
            raise UserError(
                "InstaBoost cuts instances out by their masks, but none were loaded: set "
                "LoadAnnotations(with_mask=True) before it, or remove it from the pipeline"
            )
        if np.random.random() < self.prob:
            if len(results["gt_masks"]):
                self._move_instances(results)
            if np.random.random() < self.color_prob:
                results["img"] = _jitter_colours(results["img"])
        return results

    def _move_instances(self, results: dict[str, Any]) -> None:
        masks = results["gt_masks"].to_ndarray().astype(bool)
        movable = np.flatnonzero(~results["gt_ignore_flags"] & masks.any(axis=(1, 2)))
        if not len(movable):
            return
        boxes = _boxes_of(masks[movable])
        height, width = results["img"].shape[:2]
        moves = []
        for members in overlapping_groups(boxes):
            corners = boxes[members, :2].min(0), boxes[members, 2:].max(0)
            moves.append((movable[members], self._random_affine(*corners, (width, height))))
        _paste(results, masks, moves)
        _write(results, masks, movable)

    def _random_affine(self, start: Floats, end: Floats, image_size: tuple[int, int]) -> Floats:
        """A random matrix ``(2, 3)`` about the center of a box with corners ``start``, ``end``."""
        size, center = end - start, (start + end) / 2
        scale = np.random.uniform(*self.scale)
        angle = np.random.uniform(-self.angle, self.angle)
        shift = np.random.uniform(-self.shift, self.shift, 2) * size
        at_start = start < _BORDER
        at_end = end > np.array(image_size) - _BORDER
        if at_start.any() or at_end.any():
            scale, angle = max(scale, 1.0), 0.0
        shift = np.where(at_start, np.minimum(shift, 0), shift)
        shift = np.where(at_end, np.maximum(shift, 0), shift)
        matrix = cv2.getRotationMatrix2D(tuple(center), angle, scale)
        shift = np.where(at_start & at_end, 0, shift)
        return np.column_stack([matrix[:, :2], matrix[:, 2] + shift])

    def __repr__(self) -> str:
        name, prob, scale = type(self).__name__, self.prob, self.scale
        moves = f"{prob=}, {scale=}, shift={self.shift:.3f}, angle={self.angle}"
        return f"{name}({moves}, color_prob={self.color_prob})"


def _jitter_colours(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Random saturation, brightness, contrast and sharpness of an image ``(H, W, 3)``, BGR."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    for enhancement, low, high in _COLOURS:
        picture = enhancement(picture).enhance(np.random.randint(low, high + 1) / 10)
    return np.ascontiguousarray(np.asarray(picture)[..., ::-1])


def overlapping_groups(boxes: Floats) -> list[NDArray[np.intp]]:
    """Groups of indices of boxes ``(N, 4)`` that overlap, directly or through others."""
    start, end = boxes[:, :2], boxes[:, 2:]
    overlap = ((start[:, None] < end) & (start < end[:, None])).all(axis=-1)
    count, group = connected_components(overlap, directed=False)
    return [np.flatnonzero(group == i) for i in range(count)]


def _boxes_of(masks: Mask) -> Floats:
    return HorizontalBoxes.from_instance_masks(_bitmaps(masks)).numpy().astype(float)


def _bitmaps(masks: Mask) -> BitmapMasks:
    return BitmapMasks(masks.astype(np.uint8), *masks.shape[1:])


def _paste(
    results: dict[str, Any], masks: Mask, moves: list[tuple[NDArray[np.intp], Floats]]
) -> None:
    """Move each group's pixels and labels over the inpainted background; update ``masks``."""
    image: NDArray[np.uint8] = results["img"]
    labels: NDArray[Any] | None = results.get("gt_seg_map")
    moving = masks[np.concatenate([members for members, _ in moves])].any(axis=0)
    # One pixel more than the masks, which are drawn by hand and leave a rim of the instances.
    hole = cv2.dilate(moving.astype(np.uint8), np.ones((3, 3), np.uint8))
    canvas = cv2.inpaint(image, hole, _INPAINT_RADIUS, cv2.INPAINT_TELEA).astype(np.float32)
    if labels is not None:
        new_labels = np.where(moving, _UNKNOWN, labels).astype(labels.dtype)
    for number, (members, matrix) in enumerate(moves):
        union = np.asarray(masks[members].any(axis=0), np.float32)
        alpha = _warp(union, matrix, cv2.INTER_LINEAR)[..., None]
        pixels = _warp(image, matrix, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
        canvas += alpha * (pixels - canvas)
        for i in members:
            masks[i] = _warp(masks[i].astype(np.uint8), matrix, cv2.INTER_NEAREST)
        covered = masks[members].any(axis=0)
        for earlier, _ in moves[:number]:
            masks[earlier] &= ~covered
        if labels is not None:
            moved = _warp(labels, matrix, cv2.INTER_NEAREST, cv2.BORDER_REPLICATE)
            new_labels = np.where(covered, moved, new_labels)
    results["img"] = canvas.round().astype(image.dtype)
    if labels is not None:
        results["gt_seg_map"] = new_labels


def _warp(
    array: NDArray[Any], matrix: Floats, interpolation: int, border: int = cv2.BORDER_CONSTANT
) -> NDArray[Any]:
    size = array.shape[1::-1]
    return cv2.warpAffine(array, matrix, size, flags=interpolation, borderMode=border)


def _write(results: dict[str, Any], masks: Mask, moved: NDArray[np.intp]) -> None:
    """Put masks and boxes of moved instances into ``results``; remove fully occluded instances."""
    kept = np.ones(len(masks), bool)
    kept[moved] = masks[moved].any(axis=(1, 2))
    boxes = results["gt_bboxes"].numpy().copy()
    visible = moved[kept[moved]]
    boxes[visible] = _boxes_of(masks[visible])
    results["gt_masks"] = CroppedMasks(masks[kept].astype(np.uint8), *masks.shape[1:])
    results["gt_bboxes"] = HorizontalBoxes(boxes[kept])
    for key in ("gt_bboxes_labels", "gt_ignore_flags"):
        results[key] = results[key][kept]
