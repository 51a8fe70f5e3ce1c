"""Detections as tensors of fixed sizes, and how the best boxes are chosen for them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Of scores: that of a place in a list where nothing is.
NOTHING = -1.0


class Detections(NamedTuple):
    """k for each of B images, best first; where there are fewer, scores are 0 and labels -1.

    ``boxes`` ``(B, k, 4)`` in pixels, x1, y1, x2, y2; ``scores`` and ``labels`` ``(B, k)``;
    ``masks`` are probabilities, ``(B, k, h, w)`` within each box, or in the whole image.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


def top_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of ``(B, n)``, and their indices: ``(B, count)`` each.

    If n is smaller, which a graph must not ask, the rest is :data:`NOTHING` of any index.
    """
    filled = torch.nn.functional.pad(scores, (0, count), value=NOTHING)
    best, index = filled.topk(count)
    return best, torch.where(best > NOTHING, index, 0)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, k, ...)`` of ``(B, n, ...)`` by their index ``(B, k)``."""
    index = index.view(*index.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, count: int, overlap: float
) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression in every group of every image.

    Args:
        boxes: ``(B, n, 4)``, x1, y1, x2, y2, none below 0.
        scores: ``(B, n)``; what is not above 0 is left out.
        groups: ``(n,)`` or ``(B, n)``, classes or levels: only boxes of one group suppress others.
        count: how many to keep of an image.
        overlap: IoU above which they do.

    Returns:
        Scores, best first, :data:`NOTHING` where none is left, and indices, ``(B, count)`` each.
    """
    from torchvision.ops import nms

    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(scores.shape)
    # One call for all: groups are moved apart to the right, images downwards, which keeps
    # coordinates smaller, and so more exact, than moving both in one direction.
    apart = torch.stack([groups.expand(scores.shape), image], 2) * (boxes.max() + 1)
    moved = (boxes + apart.repeat(1, 1, 2)).flatten(0, 1)
    candidates = (scores > 0).flatten().nonzero()[:, 0]
    kept = candidates[nms(moved[candidates], scores.flatten()[candidates], overlap)]
    remains = torch.zeros_like(scores, dtype=torch.bool).flatten().index_fill(0, kept, True)
    return top_scores(torch.where(remains.view(scores.shape), scores, NOTHING), count)


def soft_suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, count: int, nms: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al. 2017): as :func:`suppress`, but overlaps lower scores.

    Each step takes the best box that is left, of all groups, so that as many steps as boxes are
    kept give the list that ends with the last of them.

    Args:
        boxes, scores, groups, count: as for :func:`suppress`.
        nms: arguments of ``mmcv.ops.soft_nms``.
    """
    threshold, least = nms.get("iou_threshold", 0.3), nms.get("min_score", 1e-3)
    method, sigma = nms.get("method", "linear"), nms.get("sigma", 0.5)
    groups = groups.expand(scores.shape)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    kept, indices = [], []
    for _ in range(count):
        best, index = scores.max(1, keepdim=True)
        kept.append(best)
        indices.append(index)
        taken = take(boxes, index)
        sides = torch.minimum(boxes[..., 2:], taken[..., 2:])
        sides = (sides - torch.maximum(boxes[..., :2], taken[..., :2])).clamp(min=0)
        shared = sides.prod(-1)
        iou = shared / (areas + take(areas, index) - shared).clamp(min=1e-12)
        if method == "gaussian":
            left = torch.exp(-(iou * iou) / sigma)
        else:
            left = torch.where(iou >= threshold, 1 - iou if method == "linear" else 0.0, 1.0)
        scores = torch.where(groups == take(groups, index), scores * left, scores)
        scores = torch.where(scores >= least, scores, NOTHING).scatter(1, index, NOTHING)
    return torch.cat(kept, 1), torch.cat(indices, 1)
