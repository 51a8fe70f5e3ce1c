"""Losses against mmdet's and plain computations."""

import math

import torch
from mmdet.models.losses import GIoULoss
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from swin_dense.models.heads import InclusiveGIoULoss, SeparateFocalLoss
from swin_dense.models.heads.losses import giou_loss


def some_boxes(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2) * 3
    return torch.cat([corners, corners + torch.rand(count, 2) * 3], 1)


def test_giou_includes_the_last_pixel():
    first, second = some_boxes(50), some_boxes(50)
    grown = torch.tensor([0.0, 0, 1, 1])
    expected = 2 * GIoULoss(reduction="sum")(first + grown, second + grown) / 7
    torch.testing.assert_close(InclusiveGIoULoss(loss_weight=2.0)(first, second, 7), expected)


def test_loss_without_pairs_is_zero():
    pred = torch.zeros(0, 4, requires_grad=True)
    loss = InclusiveGIoULoss()(pred, torch.zeros(0, 4), 1)
    loss.backward()
    assert loss == 0
    assert pred.grad.shape == (0, 4)


def test_positive_and_negative_losses_are_averaged_separately():
    pred = torch.tensor([0.3, -1.2, 2.0, 0.0, -0.7])
    target = torch.tensor([1.0, 0, 1, 0, 0])
    weight = torch.tensor([0.1, 0, 0.3, 0, 0])
    p = [1 / (1 + math.exp(-x)) for x in pred.tolist()]
    positive = sum(-w * math.log(q) * (1 - q) ** 2 for w, q in ((0.1, p[0]), (0.3, p[2]))) / 0.4
    negative = sum(-math.log(1 - q) * q**2 for q in (p[1], p[3], p[4])) / 2
    expected = 0.5 * (0.25 * positive + 0.75 * negative)
    loss = SeparateFocalLoss(gamma=2.0, alpha=0.25, loss_weight=0.5)(pred, target, weight)
    torch.testing.assert_close(float(loss), expected)


def test_loss_and_gradient_stay_finite():
    """With saturated 16-bit logits, and in images without objects."""
    for target in (torch.zeros(4), torch.tensor([1.0, 0, 1, 0])):
        pred = torch.tensor([90.0, 90, -90, -90], dtype=torch.bfloat16, requires_grad=True)
        loss = SeparateFocalLoss()(pred, target, target * 1e-6)
        loss.backward()
        assert loss.isfinite()
        assert pred.grad.isfinite().all()


def test_giou_has_the_bits_of_torchvision():
    first, second = some_boxes(200), some_boxes(200)
    first[:20] = first[:20][:, [2, 3, 0, 1]]  # swapped corners, as untrained models predict them
    found = []
    for function in (giou_loss, generalized_box_iou_loss):
        boxes = [x.clone().requires_grad_() for x in (first, second)]
        loss = function(*boxes)
        found.append([loss, *torch.autograd.grad(loss.sum(), boxes)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_focal_loss_has_the_bits_of_indexing_with_masks():
    target, weight = (torch.rand(2, 500, 3) > 0.9).float(), torch.rand(2, 500, 3)
    found = []
    for loss in (SeparateFocalLoss(), focal_loss_by_masks):
        pred = 4 * torch.randn(2, 500, 3, generator=torch.Generator().manual_seed(0))
        pred.requires_grad_()
        value = loss(pred, target, weight)
        found.append((value, *torch.autograd.grad(value, pred)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def focal_loss_by_masks(pred, target, weight):
    positive = target > 0
    cross_entropy = torch.where(positive, -F.logsigmoid(pred), -F.logsigmoid(-pred))
    modulated = cross_entropy * (1 - torch.exp(-cross_entropy)) ** 2
    negative_part = modulated[~positive].sum() * 0.75 / positive.sum()
    part = (modulated[positive] * weight[positive]).sum() * 0.25 / weight[positive].sum()
    return part + negative_part
