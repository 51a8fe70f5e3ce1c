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


def normalised_backward(grad: Tensor, qkv: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of qkv and tau, from that of what :func:`normalised` returns."""
    heads = len(tau)
    parts = qkv.unflatten(-1, (3, heads, -1))
    grads = grad.unflatten(-1, (3, heads, -1))
    vectors = parts[..., :2, :, :].to(torch.promote_types(qkv.dtype, torch.float32))
    length = vectors.norm(dim=-1, keepdim=True)
    inverse = torch.where(length > _SHORTEST, length.reciprocal(), 0)
    unit = vectors.mul_(inverse) if vectors.dtype != qkv.dtype else vectors * inverse
    d_unit = grads[..., :2, :, :].to(vectors.dtype)
    along = (unit * d_unit).sum(-1, keepdim=True)
    d_tau = along[..., 0, :, 0].flatten(0, -2).sum(0).to(tau.dtype)
    d_vectors = torch.addcmul(d_unit, unit, along, value=-1).mul_(inverse * _factors(tau, vectors))
    d_qkv = torch.cat([d_vectors.to(qkv.dtype), grads[..., 2:, :, :]], dim=-3)
    return d_qkv.flatten(-3), d_tau
