"""Overlap of pairs of boxes, as a measure and as a loss."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, maximum, minimum

from swin_dense.registry import MODELS


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``(n,)`` of each box ``(n, 4)`` with the one in the same row."""
    overlap, union, _ = _areas(first, second, margin=0.0)
    return overlap / union.clamp(min=1e-6)


@MODELS.register_module()
class InclusiveGIoULoss(BaseModule):
    """Generalised IoU loss of boxes that include their last pixel, of boxes in any unit.

    RepPoints V2 was trained with boxes in units of their level's typical size and this "+ 1",
    which makes the loss milder than mmdet's ``GIoULoss``.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor, avg_factor: float) -> Tensor:
        """Sum over pairs of boxes ``(n, 4)`` of 1 - GIoU, over ``avg_factor``."""
        overlap, union, hull = _areas(pred, target, margin=1.0)
        union, hull = union + 1e-6, hull + 1e-6
        giou = overlap / union - (hull - union) / hull
        return self.loss_weight * (1 - giou).sum() / avg_factor


def _areas(first: Tensor, second: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of intersection, union and the smallest box around both, ``margin`` on each side."""

    def area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
        return (bottom_right - top_left + margin).prod(1)

    def box_area(boxes: Tensor) -> Tensor:
        return area(boxes[:, :2], boxes[:, 2:])

    inner = minimum(first[:, 2:], second[:, 2:]) - maximum(first[:, :2], second[:, :2])
    overlap = (inner + margin).clamp(min=0).prod(1)
    outer = maximum(first[:, 2:], second[:, 2:]) - minimum(first[:, :2], second[:, :2])
    hull = (outer + margin).clamp(min=0).prod(1)
    return overlap, box_area(first) + box_area(second) - overlap, hull
