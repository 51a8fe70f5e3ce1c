"""Which points of a pyramid answer for which object, around centres that may be those of masks.

mmdet's ``PointAssigner`` and ``ATSSAssigner`` do the same around the centres of boxes only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou


def mass_centers(masks: Tensor, boxes: Tensor) -> Tensor:
    """Centres of mass ``(K, 2)``, x and y in pixels, of masks ``(K, H, W)`` of zeros and ones.

    An empty mask has the centre of its box ``(K, 4)``.
    """
    height, width = masks.shape[1:]
    columns, rows = masks.sum(1).float(), masks.sum(2).float()
    mass = rows.sum(1)
    # Not matrix products: mixed precision would take those in 16 bits.
    x = (columns * torch.arange(width, device=masks.device)).sum(1)
    y = (rows * torch.arange(height, device=masks.device)).sum(1)
    centers = torch.stack([x, y], 1) / mass.clamp(min=1)[:, None]
    return torch.where(mass[:, None] > 0, centers, (boxes[:, :2] + boxes[:, 2:]) / 2)


def nearest_points(
    points: Tensor, strides: Tensor, centers: Tensor, sizes: Tensor, scale: float
) -> Tensor:
    """For every object the one point that is closest to its centre, on the level of its size.

    Args:
        points: ``(N, 2)`` x, y in pixels.
        strides: ``(N,)`` of each point's level, powers of two, in pixels.
        centers: ``(K, 2)`` of the objects, in pixels.
        sizes: ``(K, 2)`` widths and heights, in pixels.
        scale: size in strides of the objects of a level.

    Returns:
        ``(N,)`` index of each point's object, -1 for none (RepPoints, arXiv 1904.11490, section
        3.3). Where objects share their closest point the closer one has it.
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


def atss(
    candidates: Tensor,
    num_per_level: list[int],
    boxes: Tensor,
    centers: Tensor,
    topk: int,
) -> Tensor:
    """Adaptive training sample selection (arXiv 1912.02424, algorithm 1) among predicted boxes.

    Args:
        candidates: ``(N, 4)`` boxes of all levels, in pixels.
        num_per_level: how many belong to each level, in order.
        boxes: ``(K, 4)`` of the objects.
        centers: ``(K, 2)`` of the objects.
        topk: candidates of each level that are closest to an object and may be chosen for it.

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
