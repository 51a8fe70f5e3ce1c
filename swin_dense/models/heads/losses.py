"""Losses of RepPoints V2 that mmdet lacks."""

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from swin_dense.registry import MODELS


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
        last = pred.new_tensor([0, 0, 1, 1])
        loss = generalized_box_iou_loss(pred + last, target + last, reduction="sum")
        return self.loss_weight * loss / avg_factor


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
        negative_part = modulated[~positive].sum() * (1 - self.alpha) / num_positive
        weight = weight[positive].float()
        total_weight = weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
        positive_part = (modulated[positive] * weight).sum() * self.alpha / total_weight
        return self.loss_weight * (positive_part + negative_part)
