"""Training targets of RepPoints V2 (arXiv 2007.08508): points, corners and foreground.

Objects are assigned to points around centers that may be those of masks: mmdet's ``PointAssigner``
and ``ATSSAssigner`` do the same around the centers of boxes only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou


class Points(NamedTuple):
    """The N points of all levels, the finest level first, row by row.

    ``xy`` (N, 2) and ``strides`` (N,) are in pixels, ``levels`` (N,) counts from 0; ``sizes`` are
    the height and width of each level.
    """

    xy: Tensor
    strides: Tensor
    levels: Tensor
    sizes: list[tuple[int, int]]


def pyramid_points(feature_maps: Sequence[Tensor], strides: Sequence[int]) -> Points:
    """Points of feature maps ``(B, C, H_i, W_i)``; the first one is at the image's corner."""
    parts = []
    for level, (x, stride) in enumerate(zip(feature_maps, strides, strict=True)):
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        xy = torch.cartesian_prod(rows, columns).flip(1).float() * stride
        parts.append((xy, xy.new_full(xy.shape[:1], stride), rows.new_full(xy.shape[:1], level)))
    sizes = [(x.shape[2], x.shape[3]) for x in feature_maps]
    xy, all_strides, levels = (torch.cat(part) for part in zip(*parts, strict=True))
    return Points(xy, all_strides, levels, sizes)


def points_inside(
    points: Points, strides: Sequence[int], size: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """Indices of the points within an image, ascending, and how many there are on each level.

    Args:
        points: of all levels.
        strides: pixels between the points of each level.
        size: height and width of the image in pixels.
    """
    found, start = [], 0
    for (height, width), stride in zip(points.sizes, strides, strict=True):
        row, column = (
            torch.arange(min(count, -(-side // stride)), device=points.xy.device)
            for count, side in zip((height, width), size, strict=True)
        )
        found.append((start + row[:, None] * width + column).flatten())
        start += height * width
    return torch.cat(found), [len(level) for level in found]


def flatten_levels(feature_maps: Sequence[Tensor]) -> Tensor:
    """Feature maps ``(B, C, H_i, W_i)`` of all levels to ``(B, N, C)`` in float32."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in feature_maps], 1).float()


def mass_centers(masks: Tensor, boxes: Tensor) -> Tensor:
    """Centers of mass ``(K, 2)``, x and y in pixels, of masks ``(K, H, W)`` of zeros and ones.

    An empty mask has the center of its box ``(K, 4)``.
    """
    height, width = masks.shape[1:]
    columns, rows = masks.sum(1).float(), masks.sum(2).float()
    mass = rows.sum(1)
    # Not matrix products: autocast would compute those in 16 bits.
    x = (columns * torch.arange(width, device=masks.device)).sum(1)
    y = (rows * torch.arange(height, device=masks.device)).sum(1)
    centers = torch.stack([x, y], 1) / mass.clamp(min=1)[:, None]
    return torch.where(mass[:, None] > 0, centers, (boxes[:, :2] + boxes[:, 2:]) / 2)


def assign_nearest(
    points: Tensor, strides: Tensor, centers: Tensor, sizes: Tensor, scale: float
) -> Tensor:
    """Assign every object to the point closest to its center, on the level of its size.

    Args:
        points: ``(N, 2)`` x, y in pixels.
        strides: ``(N,)`` of each point's level, powers of two, in pixels.
        centers: ``(K, 2)`` of the objects, in pixels.
        sizes: ``(K, 2)`` widths and heights, in pixels.
        scale: size in strides of the objects of a level.

    Returns:
        ``(N,)`` index of each point's object, -1 for none (RepPoints, arXiv 1904.11490, section
        3.3). A point that is closest to several objects is assigned to the closest one.
    """
    if not len(centers) or not len(points):
        return strides.new_full((len(points),), -1, dtype=torch.long)
    sizes = sizes.clamp(min=1e-6)
    levels = strides.log2().int()
    object_levels = (sizes / scale).log2().mean(1).int().clamp(levels.min(), levels.max())
    distances = ((points[:, None] - centers) / sizes).norm(dim=2)
    distances[levels[:, None] != object_levels] = torch.inf
    closest, rows = distances.min(dim=0)
    claims = torch.full_like(distances, torch.inf)
    claims[rows, torch.arange(len(centers), device=rows.device)] = closest
    best, objects = claims.min(dim=1)
    return torch.where(best.isfinite(), objects, -1)


def assign_atss(
    candidates: Tensor, num_per_level: list[int], boxes: Tensor, centers: Tensor, topk: int
) -> Tensor:
    """Adaptive training sample selection (arXiv 1912.02424, algorithm 1) among predicted boxes.

    Args:
        candidates: ``(N, 4)`` boxes of all levels, in pixels.
        num_per_level: number of candidates of each level.
        boxes: ``(K, 4)`` of the objects.
        centers: ``(K, 2)`` of the objects.
        topk: number of candidates per level, the closest ones, that an object selects from.

    Returns:
        ``(N,)`` index of each candidate's object, -1 for none.
    """
    if not len(boxes) or not len(candidates):
        return torch.full_like(candidates[:, 0], -1, dtype=torch.long)
    # Corners may be swapped in an untrained model's boxes: no overlap.
    overlaps = box_iou(candidates, boxes).nan_to_num(0, 0, 0)
    middles = (candidates[:, :2] + candidates[:, 2:]) / 2
    distances = (middles[:, None] - centers).norm(dim=2)
    closest, start = [], 0
    for level in distances.split(num_per_level):
        rows = level.topk(min(topk, len(level)), dim=0, largest=False).indices
        closest.append(rows + start)
        start += len(level)
    rows = torch.cat(closest)  # (k * levels, K)
    ious = overlaps.gather(0, rows)
    inside = torch.cat([middles[rows] - boxes[:, :2], boxes[:, 2:] - middles[rows]], 2).amin(2)
    chosen = (ious >= ious.mean(0) + ious.std(0)) & (inside > 0.01)
    claims = torch.full_like(overlaps, -1).scatter_(0, rows, ious.masked_fill(~chosen, -1))
    best, objects = claims.max(dim=1)
    return torch.where(best >= 0, objects, -1)


def gaussian_radii(sizes: Tensor, min_overlap: float) -> Tensor:
    """mmdet's ``gaussian_radius`` of boxes' sizes ``(K, 2)``, in pixels: ``(K,)``.

    How far the corners of a box may move while its overlap (IoU) with itself is ``min_overlap``:
    the least of three cases, for each of which a quadratic equation is solved, in float64.
    """
    sides = sizes.double()
    around, area = sides.sum(1), sides.prod(1)
    one_in = area * (1 - min_overlap) / (1 + min_overlap)
    both_in = (1 - min_overlap) * sides[:, 0] * sides[:, 1]
    both_out = (min_overlap - 1) * sides[:, 0] * sides[:, 1]
    roots = (
        (around - (around**2 - 4 * one_in).sqrt()) / 2,
        (2 * around - ((2 * around) ** 2 - 16 * both_in).sqrt()) / 8,
        (
            -2 * min_overlap * around
            + ((-2 * min_overlap * around) ** 2 - 16 * min_overlap * both_out).sqrt()
        )
        / (8 * min_overlap),
    )
    return torch.stack(roots).amin(0).to(sizes.dtype)


def corner_targets(
    points: Tensor,
    strides: Tensor,
    num_per_level: Sequence[int],
    boxes: Tensor,
    min_overlap: float,
) -> tuple[Tensor, Tensor]:
    """Corner heatmaps and offsets of one image's points (section 3.2; CornerNet, 1808.01244).

    On every level the point closest to a corner is its positive; the loss of negatives around it
    is reduced by a Gaussian. Its radius is how far both corners of a box may move while the box
    keeps ``min_overlap`` (IoU) with itself. Corner 0 is the top left, 1 the bottom right.

    Args:
        points: ``(N, 2)`` x, y in pixels.
        strides: ``(N,)`` of each point's level, in pixels.
        num_per_level: number of points of each level, the finest first.
        boxes: ``(K, 4)`` x1, y1, x2, y2 in pixels.
        min_overlap: IoU, in 0..1.

    Returns:
        Heatmap ``(N, 2)`` in 0..1, exactly 1 at positives; and there the offset to the corner
        ``(N, 2, 2)``, [corner, x or y], in strides.
    """
    heatmap = points.new_zeros(len(points), 2)
    offsets = points.new_zeros(len(points), 2, 2)
    if not len(boxes):
        return heatmap, offsets
    radius = gaussian_radii(boxes[:, 2:] - boxes[:, :2], min_overlap)
    sigma = (2 * radius + 1) / 6
    for corner in (0, 1):
        corners = boxes[:, 2 * corner : 2 * corner + 2]
        distances = (points[:, None] - corners).norm(dim=2)
        bumps = torch.exp(-(distances**2) / (2 * sigma**2))
        heatmap[:, corner] = bumps.masked_fill(distances >= radius, 0).amax(1)
        start = 0
        for level in distances.split(list(num_per_level)):
            if len(level):
                nearest = level.argmin(0) + start
                heatmap[nearest, corner] = 1
                offsets[nearest, corner] = (corners - points[nearest]) / strides[start]
            start += len(level)
    return heatmap, offsets


def foreground_targets(
    boxes: Tensor, labels: Tensor, num_classes: int, size: Sequence[int], stride: int
) -> tuple[Tensor, Tensor]:
    """Within-box foreground of an image by class (section 3.2).

    Args:
        boxes: ``(K, 4)`` in pixels.
        labels: ``(K,)`` classes.
        num_classes: C.
        size: height and width of the target.
        stride: pixels between its points.

    Returns:
        Target and weight, both ``(C, height, width)``: 1 inside boxes, 0 outside; and one over the
        area of the smallest box that covers the point, so that small objects count as much as
        large ones.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1)
    cells = (boxes.clamp(min=0) / stride).long()[:, :, None]
    y, x = (torch.arange(side, device=boxes.device) for side in size)
    rows, columns = (y >= cells[:, 1]) & (y <= cells[:, 3]), (x >= cells[:, 0]) & (x <= cells[:, 2])
    inside = rows[:, :, None] & columns[:, None]
    weights = torch.where(inside, areas.reciprocal()[:, None, None], 0)
    classes = labels[:, None, None].expand_as(weights)
    weight = boxes.new_zeros(num_classes, *size).scatter_reduce_(0, classes, weights, "amax")
    return (weight > 0).to(weight), weight
