"""Non-maximum suppression, as ``mmcv.ops.nms`` calls it.

Boxes are (N, 4) as x1, y1, x2, y2; a side is x2 - x1 + offset, with offset 0, or 1 for boxes whose
corners are pixels that they contain. Scores are (N,), indices int64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision
from mmengine.utils import deprecated_api_warning
from torch import Tensor

from swin_dense.compat.ops.precision import full_precision

_METHODS = ("naive", "linear", "gaussian")  # mmcv's operator takes their index

# Checking whether any box is left synchronises with the device; done every so many steps.
_STEPS_BETWEEN_CHECKS = 32

# Up to this many pairs (64 MiB) all overlaps are computed before the first step.
_LARGEST_TABLE = 1 << 24


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that no better box overlaps by more than the threshold, best first."""
    boxes, scores = full_precision(boxes, scores)
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """For each box that NMS keeps, best first: its index and those of the boxes it suppresses.

    ``dets`` is (N, 5), box and score. Unlike :func:`nms`, an overlap equal to the threshold
    suppresses too.
    """
    boxes, scores = full_precision(dets[:, :4], dets[:, 4])
    overlaps = (torchvision.ops.box_iou(boxes, boxes) >= iou_threshold).cpu()
    order = scores.argsort(descending=True, stable=True).cpu()
    free = torch.ones(len(dets), dtype=torch.bool)
    matches = []
    for index in order.tolist():
        if free[index]:
            free[index] = False
            members = order[(overlaps[index] & free)[order]]
            free[members] = False
            matches.append([index, *members.tolist()])
    return matches


@dataclass(frozen=True)
class _SoftNMS:
    """Soft-NMS (Bodla et al. 2017); its arguments are those of :func:`soft_nms`."""

    iou_threshold: float
    sigma: float
    min_score: float
    method: str
    offset: int

    def __post_init__(self) -> None:
        if self.method not in _METHODS or self.offset not in (0, 1):
            raise ValueError(
                f"expected method in {sorted(_METHODS)} and offset 0 or 1, "
                f"got {self.method!r} and {self.offset!r}"
            )

    def __call__(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (K,) and lowered scores (K,), best first; the first of equals is taken first."""
        boxes, scores = full_precision(boxes.detach(), scores.detach())
        if len(boxes) == 0:
            return scores.new_zeros(0, dtype=torch.long), scores
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + self.offset], dim=1)
        members = _padded_groups(boxes)  # (G, M)
        grouped_scores = torch.where(members >= 0, scores[members], -torch.inf)
        columns, lowered = self._suppress(boxes[members], grouped_scores)
        kept = members.gather(1, columns).flatten()
        lowered = lowered.flatten()
        # The best box of all stays whatever its score, as in mmcv.
        valid = (lowered >= self.min_score) | (kept == scores.argmax()) & lowered.isfinite()
        kept, lowered = kept[valid], lowered[valid]
        by_index = kept.argsort()
        order = by_index[lowered[by_index].argsort(descending=True, stable=True)]
        return kept[order], lowered[order]

    def _suppress(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Suppress in every group at once.

        Args:
            boxes: (G, M, 4), G groups of at most M boxes.
            scores: (G, M), -inf where no box is.

        Returns:
            Columns in the order in which each group picks them, (G, K), and their scores at that
            moment, (G, K), -inf when the group had none left.
        """
        groups, longest = scores.shape
        table = None
        if groups * longest * longest <= _LARGEST_TABLE:
            table = self._decay(boxes, boxes)
        columns, lowered = [], []
        for step in range(longest):
            if step % _STEPS_BETWEEN_CHECKS == 0 and not (scores > -torch.inf).any():
                break
            score, best = scores.max(dim=1, keepdim=True)
            columns.append(best)
            lowered.append(score)
            if table is None:
                decay = self._decay(boxes.gather(1, best[..., None].expand(-1, -1, 4)), boxes)
            else:
                decay = table.gather(1, best[..., None].expand(-1, -1, longest))
            scores = scores * decay[:, 0]
            # NaN (-inf times zero) is not above anything either.
            scores = torch.where(scores >= self.min_score, scores, -torch.inf)
            scores.scatter_(1, best, -torch.inf)
        return torch.cat(columns, dim=1), torch.cat(lowered, dim=1)

    def _decay(self, picked: Tensor, boxes: Tensor) -> Tensor:
        """Factors (G, K, M) on the scores of ``boxes`` once ``picked`` (G, K, 4) are taken."""
        picked, boxes = picked[:, :, None], boxes[:, None]
        sides = torch.minimum(boxes[..., 2:], picked[..., 2:])
        sides = (sides - torch.maximum(boxes[..., :2], picked[..., :2])).clamp_(min=0)
        shared = sides.prod(-1)
        areas = [(b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes, picked)]
        iou = (shared / (areas[0] + areas[1] - shared)).nan_to_num_(nan=0.0)  # no area: 0 / 0
        if self.method == "gaussian":
            return torch.exp(-(iou * iou) / self.sigma)
        lowered = 1 - iou if self.method == "linear" else torch.zeros_like(iou)
        return torch.where(iou >= self.iou_threshold, lowered, 1.0)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, method: int, **options: Any) -> Tensor:
    """The operator of :func:`soft_nms`: the indices kept, K of them, best first.

    ``dets`` is (N, 5); its first K rows receive the boxes and their lowered scores.
    """
    kept, kept_scores = _SoftNMS(method=_METHODS[method], **options)(boxes, scores)
    dets[: len(kept), :4] = boxes[kept].to(dets)
    dets[: len(kept), 4] = kept_scores.to(dets)
    return kept.to(dets.device)


@deprecated_api_warning({"iou_thr": "iou_threshold"})
def soft_nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Any, Any]:
    """``mmcv.ops.soft_nms``, computed on the boxes' own device.

    Args:
        boxes: (N, 4), tensor or numpy array.
        scores: (N,).
        iou_threshold: overlap from which 'linear' lowers and 'naive' zeroes a score.
        sigma: width of 'gaussian', which lowers every overlapping box's score.
        min_score: boxes that fall below it are dropped.
        method: 'linear', 'gaussian' or 'naive'.
        offset: 0 or 1.

    Returns:
        Kept boxes and scores, (K, 5), best first, and indices, (K,); arrays if ``boxes`` is one.
    """
    suppress = _SoftNMS(iou_threshold, sigma, min_score, method, offset)
    as_tensor = torch.as_tensor(boxes)
    kept, kept_scores = suppress(as_tensor, torch.as_tensor(scores))
    dets = torch.cat([as_tensor[kept], kept_scores.to(as_tensor)[:, None]], dim=1)
    if isinstance(boxes, np.ndarray):
        return dets.numpy(), kept.numpy()
    return dets, kept


def _padded_groups(boxes: Tensor) -> Tensor:
    """Sort boxes (N, 4) into groups that cannot overlap: (G, M) indices, -1 where none is.

    Groups do not meet on the x axis. Batched NMS offsets every class on both axes, so that here
    each class becomes a group, and all groups are processed at the same time.
    """
    order = boxes[:, 0].argsort(stable=True)
    left, right = boxes[order, 0], boxes[order, 2]
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = left[1:] > right.cummax(0).values[:-1]
    group = starts.cumsum(0) - 1
    counts = group.bincount()
    place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[group]
    members = order.new_full((len(counts), int(counts.max())), -1)
    members[group, place] = order
    return members
