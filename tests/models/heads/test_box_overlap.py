"""Overlaps against mmdet's."""

from __future__ import annotations

import torch
from mmdet.models.losses import GIoULoss
from mmdet.structures.bbox import bbox_overlaps

from swin_dense.models.heads.box_overlap import InclusiveGIoULoss, paired_iou


def some_boxes(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2) * 3
    return torch.cat([corners, corners + torch.rand(count, 2) * 3], 1)


def test_iou_is_mmdet_s():
    first, second = some_boxes(50), some_boxes(50)
    second[0] = first[0]
    first[1] = first[1, [2, 3, 0, 1]]  # swapped corners
    found = paired_iou(first, second)
    torch.testing.assert_close(found, bbox_overlaps(first, second, is_aligned=True))
    assert found[0] == 1
    assert (found == 0).any()


def test_giou_counts_the_last_pixel():
    first, second = some_boxes(50), some_boxes(50)
    grown = torch.tensor([0.0, 0, 1, 1])
    expected = 2 * GIoULoss(reduction="sum")(first + grown, second + grown) / 7
    torch.testing.assert_close(InclusiveGIoULoss(loss_weight=2.0)(first, second, 7), expected)


def test_no_pairs_no_loss():
    pred = torch.zeros(0, 4, requires_grad=True)
    loss = InclusiveGIoULoss()(pred, torch.zeros(0, 4), 1)
    loss.backward()
    assert loss == 0
    assert pred.grad.shape == (0, 4)
