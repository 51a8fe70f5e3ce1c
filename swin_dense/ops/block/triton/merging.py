"""Patch merging by our Triton kernels: the norm of 2 x 2 neighbours, and PyTorch's product.

Functions as :func:`~.backend.norm_linear`, on maps ``(B, H, W, C)`` instead of rows.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block.layers import Linear, Norm, ParamGrads
from swin_dense.ops.block.triton import maps


def norm_linear(x: Tensor, norm: Norm, linear: Linear) -> Tensor:
    """``(B, H, W, C)`` to ``(B, ceil(H / 2), ceil(W / 2), out)``, in ``linear``'s precision."""
    weight, bias = linear
    return F.linear(maps.merged_layer_norm(x, norm, weight.dtype), _in_turn(weight, 4), bias)


def norm_linear_backward(
    x: Tensor, grad: Tensor, norm: Norm, weight: Tensor, grads: ParamGrads,
    d_residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """Gradient of ``x``, with that by another path; adds those of the layers to ``grads``."""
    rows = grad.reshape(-1, grad.shape[-1])
    wants_weight, wants_bias = grads.wants("linear")
    if wants_weight:
        normed = maps.merged_layer_norm(x, norm, weight.dtype).flatten(0, 2)
        grads.add("linear.weight", _in_turn(rows.t() @ normed, weight.shape[1] // 4))
    if wants_bias:
        grads.add("linear.bias", rows.sum(0, dtype=torch.float32))
    d_normed = grad @ _in_turn(weight, 4)
    dx, *d_norm = maps.merged_layer_norm_backward(d_normed, x, norm, d_residual)
    grads.add_norm(*d_norm)
    return dx


def _in_turn(weight: Tensor, step: int) -> Tensor:
    """Columns of a matrix: first every ``step``-th from the first, then from the second, ..."""
    return weight.unflatten(1, (-1, step)).transpose(1, 2).flatten(1)
