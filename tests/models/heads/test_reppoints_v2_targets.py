"""Assignment against mmdet's assigners; corner and foreground targets against plain loops."""

import math

import pytest
import torch
from mmdet.models.task_modules.assigners import ATSSAssigner, PointAssigner
from mmdet.models.utils import gaussian_radius
from mmengine.structures import InstanceData

from swin_dense.models.heads.reppoints_v2_targets import (
    assign_atss,
    assign_nearest,
    corner_targets,
    foreground_targets,
    gaussian_radii,
    mass_centers,
    points_inside,
    pyramid_points,
)

STRIDES = (8, 16, 32)


def points():
    return pyramid_points([torch.zeros(1, 1, 96 // s, 128 // s) for s in STRIDES], STRIDES)


def some_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([90.0, 60])
    sizes = torch.rand(count, 2, generator=generator) ** 2 * torch.tensor([100.0, 80]) + 2
    return torch.cat([corners, corners + sizes], 1)


def middle(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


@pytest.mark.parametrize("seed", range(5))
def test_nearest_assignment_equals_mmdet(seed):
    boxes, grid = some_boxes(12, seed), points()
    priors = torch.cat([grid.xy, grid.strides[:, None]], 1)
    truth = InstanceData(bboxes=boxes, labels=torch.zeros(12, dtype=torch.long))
    expected = PointAssigner(scale=4, pos_num=1).assign(InstanceData(priors=priors), truth)
    found = assign_nearest(grid.xy, grid.strides, middle(boxes), boxes[:, 2:] - boxes[:, :2], 4)
    assert torch.equal(found, expected.gt_inds - 1)
    assert (found >= 0).sum() > 5


@pytest.mark.parametrize("seed", range(5))
def test_atss_equals_mmdet(seed):
    boxes, grid = some_boxes(6, seed), points()
    per_level = grid.levels.bincount().tolist()
    noise = torch.randn(len(grid.xy), 4, generator=torch.Generator().manual_seed(seed))
    reach = 2 * grid.strides[:, None] * torch.tensor([-1.0, -1, 1, 1])
    candidates = grid.xy.repeat(1, 2) + reach + 4 * noise
    truth = InstanceData(bboxes=boxes, labels=torch.zeros(6, dtype=torch.long))
    expected = ATSSAssigner(topk=9).assign(InstanceData(priors=candidates), per_level, truth)
    found = assign_atss(candidates, per_level, boxes, middle(boxes), topk=9)
    assert torch.equal(found, expected.gt_inds - 1)
    assert (found >= 0).sum() > 5


def test_candidates_are_selected_by_their_centres():
    boxes, grid = torch.tensor([[0.0, 0, 128, 96]]), points()
    reach = 20 + 20 * torch.rand(len(grid.xy), 1)
    candidates = grid.xy.repeat(1, 2) + reach * torch.tensor([-1, -1, 1, 1])
    per_level = grid.levels.bincount().tolist()
    left = assign_atss(candidates, per_level, boxes, torch.tensor([[30.0, 48]]), topk=3)
    right = assign_atss(candidates, per_level, boxes, torch.tensor([[98.0, 48]]), topk=3)
    assert grid.xy[left >= 0][:, 0].max() < 64 < grid.xy[right >= 0][:, 0].min()


def test_boxes_with_swapped_corners_have_no_overlap():
    boxes, grid = some_boxes(2, 0), points()
    candidates = grid.xy.repeat(1, 2) + torch.tensor([9.0, 9, -9, -9])
    found = assign_atss(candidates, grid.levels.bincount().tolist(), boxes, middle(boxes), topk=9)
    assert found.shape == (len(grid.xy),)
    assert found.min() >= -1


@pytest.mark.parametrize("count", [0, 3])
def test_without_objects_or_points_nothing_is_assigned(count):
    boxes, grid = some_boxes(count, 0), points()
    some = slice(None) if count == 0 else slice(0)
    xy, strides = grid.xy[some], grid.strides[some]
    init = assign_nearest(xy, strides, middle(boxes), boxes[:, 2:] - boxes[:, :2], 4)
    refine = assign_atss(xy.repeat(1, 2), [len(xy)], boxes, middle(boxes), topk=9)
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


def grid(height: int, width: int, stride: int):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    xy = torch.stack([columns.flatten(), rows.flatten()], 1).float() * stride
    return xy, torch.full((len(xy),), float(stride))


def test_corner_targets_of_two_levels():
    """Against loops over points and boxes."""
    parts = [grid(12, 16, 8), grid(6, 8, 16)]
    points, strides = (torch.cat(part) for part in zip(*parts, strict=True))
    boxes = torch.tensor([[9.0, 11, 70, 61], [30, 5, 120, 90]])
    heatmap, offsets = corner_targets(points, strides, [192, 48], boxes, 0.7)

    expected = torch.zeros(len(points), 2)
    expected_offsets = torch.zeros(len(points), 2, 2)
    for corner in (0, 1):
        for box in boxes:
            x, y = box[2 * corner : 2 * corner + 2].tolist()
            radius = gaussian_radius((box[3] - box[1], box[2] - box[0]), 0.7)
            sigma = (2 * float(radius) + 1) / 6
            for i, (px, py) in enumerate(points.tolist()):
                distance = math.hypot(px - x, py - y)
                if distance < radius:
                    bump = math.exp(-(distance**2) / (2 * sigma**2))
                    expected[i, corner] = max(float(expected[i, corner]), bump)
        for box in boxes:
            xy = box[2 * corner : 2 * corner + 2]
            for stride in (8, 16):
                distances = (points - xy).norm(dim=1) + 1e6 * (strides != stride)
                nearest = int(distances.argmin())
                expected[nearest, corner] = 1
                expected_offsets[nearest, corner] = (xy - points[nearest]) / stride
    torch.testing.assert_close(heatmap, expected)
    torch.testing.assert_close(offsets, expected_offsets)
    assert (heatmap == 1).sum(0).tolist() == [4, 4]  # two boxes on two levels
    assert ((heatmap > 0) & (heatmap < 1)).any()


def test_corner_targets_without_boxes():
    points, strides = grid(3, 4, 8)
    heatmap, offsets = corner_targets(points, strides, [12], torch.zeros(0, 4), 0.7)
    assert heatmap.shape == (12, 2)
    assert offsets.shape == (12, 2, 2)
    assert not heatmap.any()


def test_smaller_boxes_take_precedence_in_overlaps():
    boxes = torch.tensor([[0.0, 0, 31, 31], [8, 8, 15.5, 40], [0, 0, 70, 60]])
    labels = torch.tensor([1, 1, 0])
    target, weight = foreground_targets(boxes, labels, 3, (6, 8), stride=8)
    assert target.shape == weight.shape == (3, 6, 8)
    assert target[1, :4, :4].all()
    assert target[1].sum() == 16 + 2  # rows 4 and 5 of column 1
    assert target[0].sum() == 48  # cropped at the border
    assert not target[2].any()
    large, small = 1 / 31**2, 1 / (7.5 * 32)
    torch.testing.assert_close(weight[1, 0, :5], torch.tensor([large] * 4 + [0]))
    torch.testing.assert_close(weight[1, 1:, 1], torch.tensor([small] * 5))


def test_foreground_targets_without_boxes():
    target, weight = foreground_targets(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 2, (3, 4), stride=8
    )
    assert target.shape == (2, 3, 4)
    assert not target.any()
    assert not weight.any()


@pytest.mark.parametrize("size", [(96, 128), (64, 96), (33, 41), (8, 8), (200, 300)])
def test_points_inside_an_image(size):
    """Also of maps that are larger than the image, or do not cover it."""
    grid = points()
    found, per_level = points_inside(grid, STRIDES, size)
    inside = (grid.xy < torch.tensor([size[1], size[0]])).all(1)
    assert torch.equal(found, inside.nonzero()[:, 0])
    assert per_level == grid.levels[inside].bincount(minlength=3).tolist()


def test_radii_have_the_bits_of_mmdet():
    sizes = some_boxes(200, 0)[:, 2:]
    for overlap in (0.3, 0.7):
        expected = [gaussian_radius(size, overlap) for size in sizes.tolist()]
        assert torch.equal(gaussian_radii(sizes, overlap), sizes.new_tensor(expected))


@pytest.mark.parametrize("seed", range(3))
def test_foreground_has_the_bits_of_drawing_boxes(seed):
    boxes = some_boxes(20, seed) - 10  # some begin outside
    labels = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(seed))
    target, weight = torch.zeros(2, 4, 12, 16)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1)
    cells = (boxes.clamp(min=0) / 8).long().tolist()
    for index in areas.argsort(descending=True).tolist():
        x1, y1, x2, y2 = cells[index]
        place = (labels[index], slice(y1, y2 + 1), slice(x1, x2 + 1))
        target[place] = 1
        weight[place] = areas[index].reciprocal()
    found = foreground_targets(boxes, labels, 4, (12, 16), stride=8)
    assert torch.equal(found[0], target)
    assert torch.equal(found[1], weight)
