"""Where each class has objects: the foreground branch of RepPoints V2 (2007.08508, section 3.2)."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from swin_dense.registry import MODELS


def foreground_targets(
    boxes: Tensor, labels: Tensor, num_classes: int, size: tuple[int, int], stride: int
) -> tuple[Tensor, Tensor]:
    """Maps of the insides of an image's boxes, by class.

    Args:
        boxes: ``(K, 4)`` in pixels.
        labels: ``(K,)`` classes.
        num_classes: C.
        size: height and width of the maps.
        stride: pixels between their points.

    Returns:
        Two maps ``(C, height, width)``: 1 inside of boxes, 0 outside; and the weight of each
        point, one over the area of the smallest box that covers it, so that small objects count
        as much as large ones.
    """
    target = boxes.new_zeros(num_classes, *size)
    weight = boxes.new_zeros(num_classes, *size)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1)
    cells = (boxes.clamp(min=0) / stride).long().tolist()
    weights, classes = areas.reciprocal().tolist(), labels.tolist()
    for index in areas.argsort(descending=True).tolist():
        x1, y1, x2, y2 = cells[index]
        inside = (classes[index], slice(y1, y2 + 1), slice(x1, x2 + 1))
        target[inside] = 1
        weight[inside] = weights[index]
    return target, weight


@MODELS.register_module()
class SeparateFocalLoss(BaseModule):
    """Focal loss whose positive and negative parts are averaged each by itself.

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
        surprise = torch.where(positive, -F.logsigmoid(pred), -F.logsigmoid(-pred))
        modulated = surprise * (1 - torch.exp(-surprise)) ** self.gamma
        num_positive = positive.sum().clamp(min=1)
        negative_part = modulated[~positive].sum() * (1 - self.alpha) / num_positive
        weight = weight[positive].float()
        total_weight = weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
        positive_part = (modulated[positive] * weight).sum() * self.alpha / total_weight
        return self.loss_weight * (positive_part + negative_part)
