"""Foreground maps and the focal loss with separate averages, against plain computations."""

from __future__ import annotations

import math

import torch

from swin_dense.models.heads.foreground import SeparateFocalLoss, foreground_targets


def test_smaller_boxes_have_the_say_where_boxes_overlap():
    boxes = torch.tensor([[0.0, 0, 31, 31], [8, 8, 15.5, 40], [0, 0, 70, 60]])
    labels = torch.tensor([1, 1, 0])
    target, weight = foreground_targets(boxes, labels, 3, (6, 8), stride=8)
    assert target.shape == weight.shape == (3, 6, 8)
    assert target[1, :4, :4].all()
    assert target[1].sum() == 16 + 2  # rows 4 and 5 of column 1
    assert target[0].sum() == 48  # cut at the map's border
    assert not target[2].any()
    large, small = 1 / 31**2, 1 / (7.5 * 32)
    torch.testing.assert_close(weight[1, 0, :5], torch.tensor([large] * 4 + [0]))
    torch.testing.assert_close(weight[1, 1:, 1], torch.tensor([small] * 5))


def test_no_boxes_no_foreground():
    target, weight = foreground_targets(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 2, (3, 4), stride=8
    )
    assert target.shape == (2, 3, 4)
    assert not target.any()
    assert not weight.any()


def test_loss_averages_both_parts_by_themselves():
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
    """Saturated 16 bit logits, and images without objects."""
    for target in (torch.zeros(4), torch.tensor([1.0, 0, 1, 0])):
        pred = torch.tensor([90.0, 90, -90, -90], dtype=torch.bfloat16, requires_grad=True)
        loss = SeparateFocalLoss()(pred, target, target * 1e-6)
        loss.backward()
        assert loss.isfinite()
        assert pred.grad.isfinite().all()
