"""How far what an exported graph gives is from what PyTorch gives."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Of all detections, how many may be in one list alone: where two boxes overlap by just the
# threshold of NMS, or two scores are equal, rounding decides.
LOST = 1 / 50
# Further apart, of the image's side or in score, two detections are not the same one.
_APART = 0.01


def largest_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value expected."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def error_of_labels(labels: Tensor, logits: Tensor) -> float:
    """By how much the logits ``(B, classes, H, W)`` of labels ``(B, H, W)`` are below the best."""
    if labels.shape != logits[:, 0].shape:
        return float("inf")
    if logits.shape[1] == 1:  # above 0.5 is class 1
        logits = torch.cat([1 - logits, logits], dim=1)
    chosen = logits.gather(1, labels[:, None])
    best = logits.amax(1, keepdim=True)
    return float((best - chosen).max() / logits.abs().max().clamp(min=1e-6))


def error_of_masks(probabilities: Tensor, masks: Tensor, threshold: float) -> float:
    """By how much probabilities are on the wrong side of the threshold; both ``(n, H, W)``."""
    wrong = (probabilities > threshold) != masks
    return float((probabilities - threshold).abs()[wrong].max()) if wrong.any() else 0.0


def same_detections(
    found: Sequence[Tensor], expected: Sequence[Tensor], side: int
) -> tuple[Tensor, Tensor, float]:
    """Which detections of two lists are the same.

    Args:
        found: boxes ``(n, 4)``, scores and labels ``(n,)`` of an image.
        expected: likewise, m of them.
        side: of the image in pixels, what distances of boxes are relative to.

    Returns:
        Indices into the first and into the second list, and the largest distance of two that are
        the same, of boxes or scores. It is infinite if more than :data:`LOST` have no other.
    """
    from scipy.optimize import linear_sum_assignment

    boxes = torch.cdist(found[0], expected[0], p=float("inf")) / side
    distance = torch.maximum(boxes, (found[1][:, None] - expected[1]).abs())
    distance = torch.where(found[2][:, None] == expected[2], distance, 1e6).double()
    first, second = map(torch.as_tensor, linear_sum_assignment(distance.numpy()))
    apart = distance[first, second]
    first, second, apart = (x[apart < _APART] for x in (first, second, apart))
    longest = max(len(found[0]), len(expected[0]))
    if longest - len(apart) > LOST * longest:
        return first, second, float("inf")
    return first, second, float(apart.max()) if len(apart) else 0.0
