"""Losses of RepPoints V2 that mmdet lacks."""

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from swin_dense.models.transfer import true_indices
from swin_dense.registry import MODELS


def giou_loss(boxes: Tensor, others: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - GIoU of pairs of boxes ``(n, 4)``: ``(n,)``.

    The numbers of ``torchvision.ops.generalized_box_iou_loss``, which waits for the device.
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    x1g, y1g, x2g, y2g = others.unbind(1)
    left, top, right, bottom = x1.max(x1g), y1.max(y1g), x2.min(x2g), y2.min(y2g)
    overlap = (bottom > top) & (right > left)
    shared = torch.where(overlap, (right - left) * (bottom - top), 0)
    union = (x2 - x1) * (y2 - y1) + (x2g - x1g) * (y2g - y1g) - shared
    hull = (x2.max(x2g) - x1.min(x1g)) * (y2.max(y2g) - y1.min(y1g))
    return 1 - (shared / (union + eps) - (hull - union) / (hull + eps))


@MODELS.register_module()
class InclusiveGIoULoss(BaseModule):
    """Generalised IoU loss (1902.09630) of boxes that include their last pixel.

    RepPoints V2 measures boxes in sizes of their level's objects and was trained with this, though
    a "pixel" is then as large as an object: overlap starts sooner than with mmdet's ``GIoULoss``.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor, avg_factor: float | Tensor) -> Tensor:
        """Sum over pairs of boxes ``(n, 4)`` of 1 - GIoU, over ``avg_factor``."""
        pred, target = (torch.cat([x[:, :2], x[:, 2:] + 1], 1) for x in (pred, target))
        return self.loss_weight * giou_loss(pred, target).sum() / avg_factor


@MODELS.register_module()
class SeparateFocalLoss(BaseModule):
    """Focal loss whose positive and negative parts are averaged separately.

    The positive part is a weighted mean, the negative part a sum over the number of positives.
    """

    def __init__(self, gamma: float = 2.0, alpha: float = 0.25, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Loss of logits against zeros and ones, with the weights of the ones; all one shape."""
        pred, positive = pred.float(), target > 0
        cross_entropy = torch.where(positive, -F.logsigmoid(pred), -F.logsigmoid(-pred))
        modulated = cross_entropy * (1 - torch.exp(-cross_entropy)) ** self.gamma
        num_positive = positive.sum().clamp(min=1)
        ones, zeros = true_indices([positive, ~positive])
        modulated, weight = modulated.flatten(), weight.flatten()[ones].float()
        negative_part = modulated[zeros].sum() * (1 - self.alpha) / num_positive
        total_weight = weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
        positive_part = (modulated[ones] * weight).sum() * self.alpha / total_weight
        return self.loss_weight * (positive_part + negative_part)
