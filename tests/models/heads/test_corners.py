"""Corner targets, and boxes that move onto corners, against plain computations."""

from __future__ import annotations

import math

import pytest
import torch
from mmdet.models.utils.gaussian_target import gaussian_radius as mmdet_gaussian_radius

from swin_dense.models.heads.corner_pooling import pool_towards_bottom_right, pool_towards_top_left
from swin_dense.models.heads.corners import corner_targets, gaussian_radius, snap_to_corners


def grid(height: int, width: int, stride: int):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    xy = torch.stack([columns.flatten(), rows.flatten()], 1).float() * stride
    return xy, torch.full((len(xy),), float(stride))


@pytest.mark.parametrize("overlap", [0.3, 0.7])
def test_radius_is_mmdet_s(overlap):
    sizes = torch.rand(20, 2) * 200 + 1
    expected = [mmdet_gaussian_radius((h, w), overlap) for w, h in sizes]
    torch.testing.assert_close(gaussian_radius(sizes, overlap), torch.tensor(expected))


def test_radius_keeps_the_overlap():
    width, height, overlap = 60.0, 40.0, 0.7
    r = float(gaussian_radius(torch.tensor([[width, height]]), overlap))
    grown = width * height / ((width + 2 * r) * (height + 2 * r))
    shrunk = (width - 2 * r) * (height - 2 * r) / (width * height)
    shared = (width - r) * (height - r)
    shifted = shared / (2 * width * height - shared)
    assert min(grown, shrunk, shifted) == pytest.approx(overlap, abs=1e-4)


def test_a_box_without_an_inside_has_no_radius():
    assert gaussian_radius(torch.zeros(1, 2), 0.7).tolist() == [0]


def test_targets_of_two_levels():
    """Loops over points and boxes, as the definition says."""
    parts = [grid(12, 16, 8), grid(6, 8, 16)]
    points, strides = (torch.cat(part) for part in zip(*parts, strict=True))
    boxes = torch.tensor([[9.0, 11, 70, 61], [30, 5, 120, 90]])
    heat, offsets = corner_targets(points, strides, boxes, 0.7)

    expected = torch.zeros(len(points), 2)
    expected_offsets = torch.zeros(len(points), 2, 2)
    for corner in (0, 1):
        for box in boxes:
            x, y = box[2 * corner : 2 * corner + 2].tolist()
            radius = mmdet_gaussian_radius((box[3] - box[1], box[2] - box[0]), 0.7)
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
    torch.testing.assert_close(heat, expected)
    torch.testing.assert_close(offsets, expected_offsets)
    assert (heat == 1).sum(0).tolist() == [4, 4]  # two boxes on two levels
    assert ((heat > 0) & (heat < 1)).any()


def test_no_boxes_no_corners():
    points, strides = grid(3, 4, 8)
    heat, offsets = corner_targets(points, strides, torch.zeros(0, 4), 0.7)
    assert heat.shape == (12, 2)
    assert offsets.shape == (12, 2, 2)
    assert not heat.any()


def test_boxes_move_to_the_likeliest_corner_around():
    scores = torch.zeros(2, 6, 8)
    offsets = torch.zeros(4, 6, 8)
    scores[0, 2, 3] = 5  # top left corner at column 3, row 2
    scores[0, 5, 7] = 9  # likelier, but far away
    scores[1, 4, 6] = 5
    offsets[:2, 2, 3] = torch.tensor([0.25, -0.5])
    offsets[2:, 4, 6] = torch.tensor([-0.25, 0.125])
    boxes = torch.tensor([[23.0, 15, 55, 39], [24.0, 16, 48, 32], [31.9, 8.1, 41, 25]])
    moved = snap_to_corners(boxes, scores, offsets, stride=8)
    corner = [3.25 * 8, 1.5 * 8, 5.75 * 8, 4.125 * 8]
    assert moved.tolist() == [corner] * 3
    assert snap_to_corners(boxes[:0], scores, offsets, stride=8).shape == (0, 4)


def test_boxes_move_to_the_grid_even_where_no_corner_is_seen():
    moved = snap_to_corners(torch.tensor([[9.0, 3, 100, 100]]), torch.zeros(2, 4, 4),
                            torch.zeros(4, 4, 4), stride=8)  # fmt: skip
    assert moved[0, :2].tolist() == [8, 0]
    assert moved[0, 2:].tolist() == [16, 16]  # the last 2 x 2 points: those at 16 and 24


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_boxes_move_on_the_smallest_maps(size):
    boxes = torch.tensor([[0.0, 0, 8 * size[1], 8 * size[0]]])
    moved = snap_to_corners(boxes, torch.randn(2, *size), torch.zeros(4, *size), stride=8)
    limit = torch.tensor([size[1] - 1, size[0] - 1] * 2) * 8
    assert (moved >= 0).all()
    assert (moved <= limit).all()


def test_corner_pooling_looks_towards_the_box():
    x = torch.randn(2, 3, 5, 6)
    down, right = pool_towards_top_left(x, 2), pool_towards_top_left(x, 3)
    up, left = pool_towards_bottom_right(x, 2), pool_towards_bottom_right(x, 3)
    for row in range(5):
        for column in range(6):
            assert torch.equal(down[..., row, column], x[..., row:, column].amax(-1))
            assert torch.equal(right[..., row, column], x[..., row, column:].amax(-1))
            assert torch.equal(up[..., row, column], x[..., : row + 1, column].amax(-1))
            assert torch.equal(left[..., row, column], x[..., row, : column + 1].amax(-1))
