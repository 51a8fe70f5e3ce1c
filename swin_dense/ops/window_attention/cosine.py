"""Scaled cosine attention (Swin V2, arXiv 2111.09883, section 3.2) by backends of dot products.

A cosine is the dot product of two vectors of length 1. So queries and keys are normalised, queries
are multiplied by the factor of their head, and any backend computes the rest with a scale of 1.
"""

import torch
from torch import Tensor

# Vectors that are shorter are divided by this, as torch.nn.functional.normalize does.
_SHORTEST = 1e-12


def normalised(qkv: Tensor, tau: Tensor) -> Tensor:
    """Queries of length tau and keys of length 1; values as they are.

    Computed in fp32 at least and rounded once. Where a vector is 0, its gradient is 0: that of the
    formula is 1e12, which overflows in lower precision.

    Args:
        qkv: ``(B, H, W, 3 * C)``: queries, keys and values, each in ``heads`` groups.
        tau: ``(heads,)``.

    Returns:
        ``(B, H, W, 3 * C)``, of the type of qkv.
    """
    parts = qkv.unflatten(-1, (3, len(tau), -1))
    vectors = parts[..., :2, :, :].to(torch.promote_types(qkv.dtype, torch.float32))
    length = vectors.norm(dim=-1, keepdim=True)
    vectors = torch.where(length > _SHORTEST, vectors, vectors.detach())
    unit = vectors * (_factors(tau, vectors) / length.clamp(min=_SHORTEST))
    return torch.cat([unit.to(qkv.dtype), parts[..., 2:, :, :]], dim=-3).flatten(-3)


def _factors(tau: Tensor, vectors: Tensor) -> Tensor:
    """Of queries and keys, ``(2, heads, 1)``."""
    return torch.stack([tau, torch.ones_like(tau)])[..., None].to(vectors.dtype)


def normalise(qkv: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`normalised` without autograd, in fewer passes over memory.

    Returns:
        That, and 1 / length of all queries and keys, ``(B, H, W, 2, heads, 1)``.
    """
    parts = qkv.unflatten(-1, (3, len(tau), -1))
    vectors = parts[..., :2, :, :]
    wide = torch.promote_types(qkv.dtype, torch.float32)
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True, dtype=wide)
    inverse = length.clamp_(min=_SHORTEST).reciprocal_()
    unit = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    written = unit.view(parts.shape)
    torch.mul(vectors, inverse * _factors(tau, inverse), out=written[..., :2, :, :])
    written[..., 2, :, :] = parts[..., 2, :, :]
    return unit, inverse


def normalise_backward(
    grad: Tensor, unit: Tensor, inverse: Tensor, tau: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of qkv and tau, from what :func:`normalise` returned.

    Args:
        grad: of the normalised qkv, which is written over.
        unit, inverse: the results of :func:`normalise`.
        tau: ``(heads,)``.
    """
    shape = (*unit.shape[:-1], 3, len(tau), -1)
    units = unit.view(shape)[..., :2, :, :].to(inverse.dtype)
    d_vectors = grad.view(shape)[..., :2, :, :]
    d_units = d_vectors.to(inverse.dtype)
    factors = _factors(tau, inverse)
    along = (units * d_units).sum(-1, keepdim=True)
    d_tau = along[..., 0, :, 0].flatten(0, -2).sum(0) / tau
    d_units.addcmul_(units, along / factors.square(), value=-1)
    # Vectors of length 0 have no direction to turn.
    d_units.mul_(factors * inverse.masked_fill(inverse >= 1 / _SHORTEST, 0))
    if d_units.dtype != grad.dtype:
        d_vectors.copy_(d_units)
    return grad, d_tau.to(tau.dtype)
