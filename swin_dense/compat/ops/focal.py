"""The focal loss (Lin et al. 2017, eq. 5), as ``mmcv.ops.focal_loss`` calls it.

N samples, C classes. ``target`` is (N,) int64, ``weight`` (C,) or empty: a factor per class of the
target. mmcv multiplies the gradients that the backward operators write by the incoming one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from swin_dense.compat.ops.precision import full_precision

_TINY = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every logit of ``input`` (N, C) to ``output`` (N, C).

    A target outside 0..C-1 is background: all C logits count as negatives. Unlike mmcv's kernel,
    which stops at log(1.2e-38), the logarithm is exact for logits of any size.
    """
    (logits,) = full_precision(input)
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * F.logsigmoid(logits)
    negative = -(1 - alpha) * p**gamma * F.logsigmoid(-logits)
    loss = torch.where(_is_target(target, logits), positive, negative)
    output.copy_(loss * _class_weight(target, weight)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of every logit's loss to ``grad_input`` (N, C)."""
    (logits,) = full_precision(input)
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * F.logsigmoid(logits))
    negative = (1 - alpha) * p**gamma * (p - gamma * (1 - p) * F.logsigmoid(-logits))
    grad = torch.where(_is_target(target, logits), positive, negative)
    grad_input.copy_(grad * _class_weight(target, weight)[:, None])


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write every sample's loss to ``output`` (N,); ``input`` (N, C) holds softmax probabilities.

    A negative target is ignored: its loss is zero.
    """
    p = _target_probability(full_precision(input)[0], target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=_TINY).log()
    output.copy_(loss * (target >= 0) * _class_weight(target, weight))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative by the logits to ``grad_input`` (N, C), by way of ``buff`` (N,)."""
    (probabilities,) = full_precision(input)
    p = _target_probability(probabilities, target)
    other = (1 - p).clamp(min=_TINY)  # gamma < 1 raises it to a negative power
    slope = gamma * other ** (gamma - 1) * p * p.clamp(min=_TINY).log() - other**gamma
    per_sample = alpha * slope * (target >= 0) * _class_weight(target, weight)
    buff.copy_(per_sample)
    is_target = _is_target(target, probabilities).to(probabilities)
    grad_input.copy_(per_sample[:, None] * (is_target - probabilities))


def _is_target(target: Tensor, like: Tensor) -> Tensor:
    """(N, C): whether the class is the sample's target."""
    return target[:, None] == torch.arange(like.shape[1], device=like.device)


def _class_weight(target: Tensor, weight: Tensor) -> Tensor:
    """(N,): the weight of the target's class, 1 for background and without weights."""
    if not weight.numel():
        return torch.ones(len(target), device=target.device)
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[target.clamp(0, len(weight) - 1)].float(), 1.0)


def _target_probability(probabilities: Tensor, target: Tensor) -> Tensor:
    return probabilities.gather(1, target.clamp(min=0)[:, None])[:, 0]
