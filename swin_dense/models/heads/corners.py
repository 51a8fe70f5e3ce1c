"""Box corners as points of heat maps: what to learn of them and how boxes move onto them.

RepPoints V2 (arXiv 2007.08508), sections 3.2 and 3.4. Corner 0 is the top left, 1 the bottom right.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_radius(sizes: Tensor, min_overlap: float) -> Tensor:
    """How far both corners of a box may move so that it still overlaps itself enough.

    The smallest of three cases: one corner moves in and one out, both in, both out (CornerNet,
    arXiv 1808.01244, section 3.2; each is a quadratic equation in the radius).

    Args:
        sizes: ``(K, 2)`` widths and heights.
        min_overlap: the overlap (IoU) to keep.

    Returns:
        ``(K,)`` radii, in the unit of the sizes.
    """
    perimeter, area = sizes.sum(1), sizes.prod(1)  # half of the perimeter
    shifted = _smaller_root(1.0, perimeter, area * (1 - min_overlap) / (1 + min_overlap))
    inside = _smaller_root(4.0, 2 * perimeter, area * (1 - min_overlap))
    a, b = 4 * min_overlap, 2 * min_overlap * perimeter
    outside = (-b + (b**2 + 4 * a * (1 - min_overlap) * area).sqrt()) / (2 * a)
    return torch.stack([shifted, inside, outside]).amin(0)


def _smaller_root(a: float, b: Tensor, c: Tensor) -> Tensor:
    """Smaller root of ``a r^2 - b r + c``."""
    return (b - (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)


def corner_targets(
    points: Tensor, strides: Tensor, boxes: Tensor, min_overlap: float
) -> tuple[Tensor, Tensor]:
    """What the points of all levels of one image should say of its boxes' corners.

    On every level the point closest to a corner stands for it; points around are excused by a
    Gaussian that reaches to the radius of :func:`gaussian_radius`.

    Args:
        points: ``(N, 2)`` x, y in pixels.
        strides: ``(N,)`` of each point's level, in pixels.
        boxes: ``(K, 4)`` x1, y1, x2, y2 in pixels.
        min_overlap: see :func:`gaussian_radius`.

    Returns:
        Heat ``(N, 2)`` in 0..1, exactly 1 where a point stands for a corner; and there the offset
        to it ``(N, 2, 2)``, [corner, x or y], in strides.
    """
    heat = points.new_zeros(len(points), 2)
    offsets = points.new_zeros(len(points), 2, 2)
    if not len(boxes):
        return heat, offsets
    radius = gaussian_radius(boxes[:, 2:] - boxes[:, :2], min_overlap)
    sigma = (2 * radius + 1) / 6
    for corner in (0, 1):
        corners = boxes[:, 2 * corner : 2 * corner + 2]
        distances = (points[:, None] - corners).norm(dim=2)
        bumps = torch.exp(-(distances**2) / (2 * sigma**2))
        heat[:, corner] = bumps.masked_fill(distances >= radius, 0).amax(1)
        for stride in strides.unique():
            level = (strides == stride).nonzero().squeeze(1)
            nearest = level[distances[level].argmin(0)]
            heat[nearest, corner] = 1
            offsets[nearest, corner] = (corners - points[nearest]) / stride
    return heat, offsets


def snap_to_corners(boxes: Tensor, scores: Tensor, offsets: Tensor, stride: int) -> Tensor:
    """Move the corners of boxes to the likeliest corners in the map's 2 x 2 points around them.

    Args:
        boxes: ``(n, 4)`` in pixels.
        scores: ``(2, H, W)`` for top left and bottom right corners; only their order counts.
        offsets: ``(4, H, W)`` x, y of top left, x, y of bottom right, from a point, in strides.
        stride: pixels between the map's points.

    Returns:
        ``(n, 4)`` boxes in pixels, not clipped to the image.
    """
    height, width = scores.shape[1:]
    steps = boxes.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.long)
    limit = steps.new_tensor([width - 1, height - 1])
    moved = []
    for corner in (0, 1):
        part = slice(2 * corner, 2 * corner + 2)
        first = (boxes[:, part] / stride).floor().long()
        first = first.clamp(min=first.new_zeros(2), max=(limit - 1).clamp(min=0))
        x, y = (first[:, None] + steps).minimum(limit).unbind(2)  # (n, 4) each
        best = scores[corner, y, x].argmax(1, keepdim=True)
        x, y = x.gather(1, best).squeeze(1), y.gather(1, best).squeeze(1)
        moved.append(torch.stack([x, y], 1) + offsets[part, y, x].T)
    return torch.cat(moved, 1) * stride
