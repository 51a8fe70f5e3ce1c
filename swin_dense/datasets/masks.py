"""Instance masks that are stored, drawn and resized inside their boxes only.

mmdet's ``BitmapMasks`` is an array of all objects at the size of the image: most of it is zero, and
resizing it takes longer than decoding the image. The masks here have the same pixels.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.structures.mask import BitmapMasks
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from swin_dense.datasets.run_lengths import run_lengths

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, without the last row and column
_NOTHING = -1  # the source of rows and columns of padding
_FIRST_AND_LAST = np.array([0, 1])  # a run's end less this is a pixel of the run


class CroppedMasks(BitmapMasks):
    """mmdet's ``BitmapMasks`` of N objects and H x W pixels, stored as the pixels in their boxes.

    The pixels are those of the annotated image. Two arrays, shared by all objects, tell which of
    its rows and columns each row and column of the masks shows: enlarging, flipping, cropping and
    padding change these alone, and the pixels are copied for whoever reads ``masks``. Masks that
    shrink are drawn at once, for large photos. Transforms that are not overridden here, such as
    rotation, give ``BitmapMasks``.

    Args:
        masks: ``(N, H, W)`` of zeros and ones, or a list of N arrays ``(H, W)``.
        height: H.
        width: W.
    """

    def __init__(self, masks: Any, height: int, width: int) -> None:
        self.masks = BitmapMasks(masks, height, width).masks

    @classmethod
    def from_rles(cls, rles: Sequence[dict[str, Any]], height: int, width: int) -> "CroppedMasks":
        """Masks of COCO's compressed run-length encodings, each of size ``[height, width]``."""
        masks = cls.__new__(cls)
        masks._store([crop_rle(rle) for rle in rles], height, width)
        return masks

    def _store(self, cropped: Sequence[tuple[Box, NDArray[Any]]], height: int, width: int) -> None:
        """Take over each object's box and the pixels inside of it, in an image of that size."""
        self._boxes = np.array([box for box, _ in cropped], np.int32).reshape(-1, 4)
        self._crops = [crop for _, crop in cropped]
        self._rows: NDArray[np.int32] = np.arange(height, dtype=np.int32)
        self._columns: NDArray[np.int32] = np.arange(width, dtype=np.int32)

    def _reindexed(self, rows: NDArray[np.int32], columns: NDArray[np.int32]) -> "CroppedMasks":
        masks = copy(self)
        masks._rows, masks._columns = rows, columns
        return masks

    @property
    def height(self) -> int:
        """H."""
        return len(self._rows)

    @property
    def width(self) -> int:
        """W."""
        return len(self._columns)

    @property
    def masks(self) -> NDArray[Any]:
        """``(N, H, W)``, drawn on each access; to change pixels, assign another array."""
        full = self.to_ndarray()
        full.flags.writeable = False  # what is written into this copy would be lost
        return full

    @masks.setter
    def masks(self, masks: NDArray[Any]) -> None:
        self._store([_crop(mask) for mask in masks], *masks.shape[1:])

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: Any) -> "CroppedMasks":
        chosen = np.arange(len(self))[index].reshape(-1)
        masks = copy(self)
        masks._boxes, masks._crops = self._boxes[chosen], [self._crops[i] for i in chosen]
        return masks

    def rescale(self, scale: Any, interpolation: str = "nearest") -> BitmapMasks:
        """As large as fits into ``scale``, or by this factor, with the same aspect ratio."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def resize(self, out_shape: tuple[int, int], interpolation: str = "nearest") -> BitmapMasks:
        """To ``(height, width)``."""
        if interpolation != "nearest":
            return super().resize(out_shape, interpolation)
        height, width = out_shape
        rows = self._rows[_nearest(self.height, height)]
        resized = self._reindexed(rows, self._columns[_nearest(self.width, width)])
        if height * width < self.height * self.width:
            resized._store([resized._drawn(i) for i in range(len(self))], height, width)
        return resized

    def flip(self, flip_direction: str = "horizontal") -> BitmapMasks:
        """Horizontally, vertically, or both: ``diagonal``."""
        assert flip_direction in ("horizontal", "vertical", "diagonal")
        rows = self._rows if flip_direction == "horizontal" else self._rows[::-1]
        columns = self._columns if flip_direction == "vertical" else self._columns[::-1]
        return self._reindexed(rows, columns)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BitmapMasks:
        """To ``(height, width)``, at the bottom and at the right."""
        below, right = out_shape[0] - self.height, out_shape[1] - self.width
        if pad_val or below < 0 or right < 0:
            return super().pad(out_shape, pad_val)
        rows = np.pad(self._rows, (0, below), constant_values=_NOTHING)
        return self._reindexed(rows, np.pad(self._columns, (0, right), constant_values=_NOTHING))

    def crop(self, bbox: NDArray[Any]) -> BitmapMasks:
        """To a box of integers x1, y1, x2, y2, at least a pixel."""
        x1, y1, x2, y2 = np.clip(bbox, 0, [self.width, self.height] * 2)
        x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
        if x2 > self.width or y2 > self.height:
            return super().crop(bbox)
        return self._reindexed(self._rows[y1:y2], self._columns[x1:x2])

    def crop_and_resize(
        self,
        bboxes: Tensor | NDArray[Any],
        out_shape: tuple[int, int],
        inds: Tensor | NDArray[Any],
        device: torch.device | str = "cpu",
        interpolation: str = "bilinear",
        binarize: bool = True,
    ) -> BitmapMasks:
        """Mask targets: of each box its object's mask by RoIAlign, for M boxes.

        Args:
            bboxes: ``(M, 4)``.
            out_shape: height and width of the targets.
            inds: ``(M,)``, each box's object.
            device: where to compute. Only pixels inside boxes are copied there.
            interpolation: always bilinear, as in mmdet.
            binarize: at 0.5; else fractions are kept.
        """
        if not len(self) or not len(bboxes):
            return BitmapMasks([], *out_shape)
        objects, of_box = np.unique(torch.as_tensor(inds).cpu().numpy(), return_inverse=True)
        boxes = torch.as_tensor(bboxes, device=device)
        rois = torch.cat([torch.as_tensor(of_box).to(boxes)[:, None], boxes], dim=1)
        masks = self[objects]._on(device).to(boxes.dtype)[:, None]
        targets = roi_align(masks, rois, out_shape, 1.0, 0, "avg", True).squeeze(1)
        return BitmapMasks((targets >= 0.5 if binarize else targets).cpu().numpy(), *out_shape)

    def to_ndarray(self) -> NDArray[Any]:
        """``(N, H, W)``, a new array."""
        dtype = self._crops[0].dtype if self._crops else np.uint8
        full = np.zeros((len(self), self.height, self.width), dtype)
        for i, mask in enumerate(full):
            (x1, y1, x2, y2), pixels = self._drawn(i)
            mask[y1:y2, x1:x2] = pixels
        return full

    def to_tensor(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """``(N, H, W)``."""
        return self._on(device).to(dtype)

    def _drawn(self, i: int) -> tuple[Box, NDArray[Any]]:
        """Box of an object and the pixels inside of it, both as the index shows them."""
        x1, y1, x2, y2 = self._boxes[i]
        left, right = _shown(self._columns, x1, x2)
        top, bottom = _shown(self._rows, y1, y2)
        pixels = self._crops[i][self._rows[top:bottom] - y1][:, self._columns[left:right] - x1]
        return (left, top, right, bottom), pixels

    def _on(self, device: torch.device | str) -> Tensor:
        """``(N, H, W)`` on a device, to which only pixels inside boxes are copied."""
        if torch.device(device).type == "cpu" or not len(self):
            return torch.from_numpy(self.to_ndarray()).to(device)
        return self._gathered(device)

    def _gathered(self, device: torch.device | str) -> Tensor:
        # Each object's pixels and one row and one column of zeros, which are shown outside its box.
        framed = [np.pad(crop, ((0, 1), (0, 1))) for crop in self._crops]
        start = np.cumsum([0, *(pixels.size for pixels in framed[:-1])])
        pixels = torch.from_numpy(np.concatenate([pixels.ravel() for pixels in framed])).to(device)
        x1, y1, x2, y2 = torch.from_numpy(self._boxes).to(device).T[..., None]
        first = torch.from_numpy(start.astype(np.int32)).to(device)[:, None]
        rows, columns = (
            torch.from_numpy(index.copy()).to(device) for index in (self._rows, self._columns)
        )
        row = torch.where((rows >= y1) & (rows < y2), rows - y1, y2 - y1) * (x2 - x1 + 1) + first
        column = torch.where((columns >= x1) & (columns < x2), columns - x1, x2 - x1)
        source = row[:, :, None] + column[:, None]
        return pixels.index_select(0, source.flatten()).view(source.shape)


def crop_rle(rle: dict[str, Any]) -> tuple[Box, NDArray[np.uint8]]:
    """Box of a mask and the pixels inside of it, from COCO's compressed run-length encoding.

    The pixels are those that pycocotools decodes, which draws the whole image; those after the end
    of a truncated encoding are empty, where pycocotools reads uninitialised memory. An empty mask
    has a box of no pixels.

    Raises:
        ValueError: ``counts`` is none, for which pycocotools may read beyond its memory.
    """
    height, width = rle["size"]
    lengths = run_lengths(rle["counts"])
    if lengths is None or (lengths < 0).any() or lengths.sum() > height * width:
        raise ValueError(f"not a run-length encoding of {height} x {width} pixels")
    # Runs go down the columns, in turns outside and inside of the object.
    ends = np.cumsum(lengths)[: len(lengths) // 2 * 2].reshape(-1, 2)
    runs = ends[ends[:, 0] < ends[:, 1]]
    if not len(runs):
        return (0, 0, 0, 0), np.zeros((0, 0), np.uint8)
    columns, rows = np.divmod(runs - _FIRST_AND_LAST, height)
    x1, x2 = int(columns[0, 0]), int(columns[-1, 1]) + 1
    over_columns = (columns[:, 0] < columns[:, 1]).any()
    y1, y2 = (0, height) if over_columns else (int(rows.min()), int(rows.max()) + 1)
    # The same runs in an image of the box alone.
    in_box = (columns - x1) * (y2 - y1) + rows - y1 + _FIRST_AND_LAST
    bounds = np.concatenate([[0], in_box.ravel(), [(x2 - x1) * (y2 - y1)]])
    inside = (np.arange(len(bounds) - 1) % 2).astype(np.uint8)
    pixels = inside.repeat(bounds[1:] - bounds[:-1]).reshape(x2 - x1, y2 - y1).T
    return (x1, y1, x2, y2), pixels


def _crop(mask: NDArray[Any]) -> tuple[Box, NDArray[Any]]:
    """Box of a mask ``(H, W)`` and a copy of the pixels inside of it."""
    x1, x2 = _extent(mask.any(axis=0))
    y1, y2 = _extent(mask.any(axis=1))
    return (x1, y1, x2, y2), mask[y1:y2, x1:x2].copy()


def _shown(index: NDArray[np.int32], start: int, stop: int) -> tuple[int, int]:
    """Where ``index``, which rises or falls, has values from ``start`` to ``stop``."""
    return _extent((index >= start) & (index < stop))


def _extent(flags: ArrayLike) -> tuple[int, int]:
    """The first that is true and the one after the last; 0, 0 if none is."""
    found = np.flatnonzero(flags)
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)


def _nearest(length: int, new_length: int) -> NDArray[np.intp]:
    """Which of ``length`` pixels each of ``new_length`` shows, as mmcv resizes masks."""
    pixels = np.arange(length, dtype=np.float32)[None]
    return mmcv.imresize(pixels, (new_length, 1), interpolation="nearest")[0].astype(np.intp)
