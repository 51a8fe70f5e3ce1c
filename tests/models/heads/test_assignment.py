"""Assignment against mmdet's own assigners, and around centres of mass."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.task_modules.assigners import ATSSAssigner, PointAssigner
from mmengine.structures import InstanceData

from swin_dense.models.heads.assignment import atss, mass_centers, nearest_points
from swin_dense.models.heads.pyramid import pyramid_points

STRIDES = (8, 16, 32)


def points():
    return pyramid_points([torch.zeros(1, 1, 96 // s, 128 // s) for s in STRIDES], STRIDES)


def some_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([90.0, 60])
    sizes = torch.rand(count, 2, generator=generator) ** 2 * torch.tensor([100.0, 80]) + 2
    return torch.cat([corners, corners + sizes], 1)


def middles(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


@pytest.mark.parametrize("seed", range(5))
def test_nearest_points_are_mmdet_s(seed):
    boxes, grid = some_boxes(12, seed), points()
    priors = torch.cat([grid.xy, grid.strides[:, None]], 1)
    truth = InstanceData(bboxes=boxes, labels=torch.zeros(12, dtype=torch.long))
    expected = PointAssigner(scale=4, pos_num=1).assign(InstanceData(priors=priors), truth)
    found = nearest_points(grid.xy, grid.strides, middles(boxes), boxes[:, 2:] - boxes[:, :2], 4)
    assert torch.equal(found, expected.gt_inds - 1)
    assert (found >= 0).sum() > 5


@pytest.mark.parametrize("seed", range(5))
def test_atss_is_mmdet_s(seed):
    boxes, grid = some_boxes(6, seed), points()
    per_level = grid.levels.bincount().tolist()
    noise = torch.randn(len(grid.xy), 4, generator=torch.Generator().manual_seed(seed))
    reach = 2 * grid.strides[:, None] * torch.tensor([-1.0, -1, 1, 1])
    candidates = grid.xy.repeat(1, 2) + reach + 4 * noise
    truth = InstanceData(bboxes=boxes, labels=torch.zeros(6, dtype=torch.long))
    expected = ATSSAssigner(topk=9).assign(InstanceData(priors=candidates), per_level, truth)
    found = atss(candidates, per_level, boxes, middles(boxes), topk=9)
    assert torch.equal(found, expected.gt_inds - 1)
    assert (found >= 0).sum() > 5


def test_centres_decide_which_candidates_are_looked_at():
    boxes, grid = torch.tensor([[0.0, 0, 128, 96]]), points()
    reach = 20 + 20 * torch.rand(len(grid.xy), 1)
    candidates = grid.xy.repeat(1, 2) + reach * torch.tensor([-1, -1, 1, 1])
    per_level = grid.levels.bincount().tolist()
    left = atss(candidates, per_level, boxes, torch.tensor([[30.0, 48]]), topk=3)
    right = atss(candidates, per_level, boxes, torch.tensor([[98.0, 48]]), topk=3)
    assert grid.xy[left >= 0][:, 0].max() < 64 < grid.xy[right >= 0][:, 0].min()


def test_swapped_corners_overlap_nothing():
    boxes, grid = some_boxes(2, 0), points()
    candidates = grid.xy.repeat(1, 2) + torch.tensor([9.0, 9, -9, -9])
    found = atss(candidates, grid.levels.bincount().tolist(), boxes, middles(boxes), topk=9)
    assert found.shape == (len(grid.xy),)
    assert found.min() >= -1


@pytest.mark.parametrize("count", [0, 3])
def test_without_objects_or_points_nothing_is_assigned(count):
    boxes, grid = some_boxes(count, 0), points()
    some = slice(None) if count == 0 else slice(0)
    xy, strides = grid.xy[some], grid.strides[some]
    init = nearest_points(xy, strides, middles(boxes), boxes[:, 2:] - boxes[:, :2], 4)
    refine = atss(xy.repeat(1, 2), [len(xy)], boxes, middles(boxes), topk=9)
    for found in (init, refine):
        assert found.dtype == torch.long
        assert found.tolist() == [-1] * len(xy)


def test_centres_of_mass():
    boxes = torch.tensor([[2.0, 1, 5, 4], [0, 0, 4, 4], [2, 2, 4, 6]])
    masks = torch.zeros(3, 8, 10, dtype=torch.uint8)
    masks[0, 1:4, 2:5] = 1
    masks[1, 0, 0] = masks[1, 3, 0] = masks[1, 3, 3] = 1
    centers = mass_centers(masks, boxes)
    assert centers.tolist() == [[3, 2], [1, 2], [3, 4]]  # the last mask is empty: its box


def test_centres_of_mass_are_exact_in_mixed_precision():
    masks = torch.ones(1, 600, 900, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        centers = mass_centers(masks, torch.zeros(1, 4))
    assert centers.tolist() == [[449.5, 299.5]]
