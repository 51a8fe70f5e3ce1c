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

    ``xy`` (N, 2) and ``strides`` (N,) are in pixels, ``levels`` (N,) counts from 0.
    """

    xy: Tensor
    strides: Tensor
    levels: Tensor


def pyramid_points(feature_maps: Sequence[Tensor], strides: Sequence[int]) -> Points:
    """Points of feature maps ``(B, C, H_i, W_i)``; the first one is at the image's corner."""
    parts = []
    for level, (x, stride) in enumerate(zip(feature_maps, strides, strict=True)):
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        xy = torch.cartesian_prod(rows, columns).flip(1).float() * stride
        parts.append((xy, xy.new_full((len(xy),), stride), rows.new_full((len(xy),), level)))
    return Points(*(torch.cat(part) for part in zip(*parts, strict=True)))


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


def corner_targets(
    points: Tensor, strides: Tensor, boxes: Tensor, min_overlap: float
) -> tuple[Tensor, Tensor]:
    """Corner heatmaps and offsets of one image's points (section 3.2; CornerNet, 1808.01244).

    On every level the point closest to a corner is its positive; the loss of negatives around it
    is reduced by a Gaussian. Its radius is how far both corners of a box may move while the box
    keeps ``min_overlap`` (IoU) with itself. Corner 0 is the top left, 1 the bottom right.

    Args:
        points: ``(N, 2)`` x, y in pixels.
        strides: ``(N,)`` of each point's level, in pixels.
        boxes: ``(K, 4)`` x1, y1, x2, y2 in pixels.
        min_overlap: IoU, in 0..1.

    Returns:
        Heatmap ``(N, 2)`` in 0..1, exactly 1 at positives; and there the offset to the corner
        ``(N, 2, 2)``, [corner, x or y], in strides.
    """
    from mmdet.models.utils import gaussian_radius  # its package is large

    heatmap = points.new_zeros(len(points), 2)
    offsets = points.new_zeros(len(points), 2, 2)
    if not len(boxes):
        return heatmap, offsets
    sizes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    radius = boxes.new_tensor([gaussian_radius(size, min_overlap) for size in sizes])
    sigma = (2 * radius + 1) / 6
    for corner in (0, 1):
        corners = boxes[:, 2 * corner : 2 * corner + 2]
        distances = (points[:, None] - corners).norm(dim=2)
        bumps = torch.exp(-(distances**2) / (2 * sigma**2))
        heatmap[:, corner] = bumps.masked_fill(distances >= radius, 0).amax(1)
        for stride in strides.unique():
            level = (strides == stride).nonzero().squeeze(1)
            nearest = level[distances[level].argmin(0)]
            heatmap[nearest, corner] = 1
            offsets[nearest, corner] = (corners - points[nearest]) / stride
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
