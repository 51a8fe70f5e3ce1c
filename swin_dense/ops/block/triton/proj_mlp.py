"""The end of a block by our Triton kernels, with PyTorch's matrix products between them.

Up to 256 channels the whole perceptron is one kernel. Arguments and results are those of
:mod:`~.pytorch`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block.layers import BlockEnd, Sums
from swin_dense.ops.block.triton import launch as triton_block
from swin_dense.ops.block.triton.support import unfit_product


def forward(
    x: Tensor,
    attended: Tensor,
    scale_1: Tensor | None,
    scale_2: Tensor | None,
    layers: BlockEnd,
    keep: bool,
) -> tuple[Tensor, ...]:
    """Rows ``(T, C)`` to ``(T, C)``; if asked to keep it, fc1's result too, ``(T, hidden)``."""
    projection, norm, fc1, fc2 = layers
    if not keep and _is_one_kernel(layers):
        middle = triton_block.linear_residual(attended, *projection, x, scale_1)
        return (triton_block.mlp(middle, scale_2, *norm, *fc1, *fc2),)  # type: ignore[arg-type]
    branch = F.linear(attended, *projection)
    middle, normed = triton_block.add_layer_norm(x, branch, scale_1, *norm, attended.dtype)
    hidden = F.linear(normed, *fc1)
    out = triton_block.add(middle, F.linear(F.gelu(hidden), *fc2), scale_2)
    return (out, hidden) if keep else (out,)


def backward(
    x: Tensor,
    attended: Tensor,
    scale_1: Tensor | None,
    scale_2: Tensor | None,
    hidden: Tensor | None,
    layers: BlockEnd,
    grad: Tensor,
    sums: Sums,
) -> tuple[Tensor, ...]:
    """Gradients of x and of the attention's result; adds those of the layers to ``sums``."""
    projection, norm, fc1, fc2 = layers
    dtype = attended.dtype
    if hidden is None and _is_one_kernel(layers):
        middle = triton_block.linear_residual(attended, *projection, x, scale_1)
        found = triton_block.mlp_backward(middle, grad, scale_2, *norm, *fc1, fc2.weight)  # type: ignore[arg-type]
        sums.add_linear("fc2", found.d2, found.g)
        sums.add_linear("fc1", found.dh, found.mn)
        sums.add_norm(found.d_norm_weight, found.d_norm_bias)
        d_middle = found.dm
        d_branch: Tensor | None = _scaled(found.dm, scale_1, dtype)
    else:
        branch = F.linear(attended, *projection)
        middle, normed = triton_block.add_layer_norm(x, branch, scale_1, *norm, dtype)
        entering = F.linear(normed, *fc1) if hidden is None else hidden
        d_out = _scaled(grad, scale_2, dtype)
        sums.add_linear("fc2", d_out, F.gelu(entering))
        d_hidden = d_out @ fc2.weight
        torch.ops.aten.gelu_backward.grad_input(d_hidden, entering, grad_input=d_hidden)
        sums.add_linear("fc1", d_hidden, normed)
        d_middle, *d_norm, d_branch = triton_block.layer_norm_backward(
            d_hidden @ fc1.weight, middle, norm.weight, norm.eps, grad, scale_1, dtype
        )
        sums.add_norm(*d_norm)
    assert d_branch is not None
    sums.add_linear("projection", d_branch, attended)
    return d_middle.to(x.dtype), d_branch @ projection.weight


def _is_one_kernel(layers: BlockEnd) -> bool:
    weight = layers.fc1.weight
    has_biases = layers.fc1.bias is not None and layers.fc2.bias is not None
    return has_biases and unfit_product(weight, weight.dtype, len(weight)) is None


def _scaled(grad: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``scale * grad`` in ``dtype``: rows ``(T, C)``, factors of images ``(B,)``."""
    if scale is not None:
        grad = (grad.view(len(scale), -1, grad.shape[1]) * scale[:, None, None]).view(grad.shape)
    return grad.to(dtype)
