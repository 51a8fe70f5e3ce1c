"""Overlap of pairs of boxes, as a measure and as a loss."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, maximum, minimum
from torchvision.ops import generalized_box_iou_loss

from swin_dense.registry import MODELS


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``(n,)`` of each box ``(n, 4)`` with the one in the same row."""
    sides = minimum(first[:, 2:], second[:, 2:]) - maximum(first[:, :2], second[:, :2])
    overlap = sides.clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return overlap / (areas[0] + areas[1] - overlap).clamp(min=1e-6)


@MODELS.register_module()
class InclusiveGIoULoss(BaseModule):
    """Generalised IoU loss (1902.09630) of boxes that include their last pixel.

    RepPoints V2 measures boxes in sizes of their level's objects and was trained with this, though
    a "pixel" is then as large as an object: overlap comes sooner than with mmdet's ``GIoULoss``.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor, avg_factor: float | Tensor) -> Tensor:
        """Sum over pairs of boxes ``(n, 4)`` of 1 - GIoU, over ``avg_factor``."""
        last = pred.new_tensor([0, 0, 1, 1])
        loss = generalized_box_iou_loss(pred + last, target + last, reduction="sum")
        return self.loss_weight * loss / avg_factor
