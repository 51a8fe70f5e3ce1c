"""What a block does after its attention, as one function (the second half of equation 3).

``middle = x + projection(attended)``, ``out = middle + fc2(GELU(fc1(LayerNorm(middle))))``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block import pytorch as plain_end
from swin_dense.ops.block.layers import (
    BlockEnd,
    Linear,
    Norm,
    Sums,
    product_dtype,
)
from swin_dense.ops.block.triton.support import takes_triton
from swin_dense.ops.dispatch import differentiable_gradients, out_of_graphs

# Up to so many channels, fc1 is cheaper to compute again than its result is to keep.
RECOMPUTED_CHANNELS = 256


@out_of_graphs
def after_attention(
    x: Tensor,
    attended: Tensor,
    projection: Linear,
    norm: Norm,
    fc1: Linear,
    fc2: Linear,
    scales: tuple[Tensor | None, Tensor | None] = (None, None),
    impl: str = "auto",
) -> Tensor:
    """Output of a block from its input and the result of its attention.

    Args:
        x: ``(B, H, W, C)``, the block's input.
        attended: ``(B, H, W, C)``, heads side by side, not projected yet.
        projection, norm, fc1, fc2: layers, of C, C, hidden and C channels.
        scales: ``(B,)`` each, what the projection and the perceptron are multiplied by in every
            image: 0 or 1 / keep in stochastic depth; None for 1.
        impl: 'triton' for our kernels where they can run; anything else is PyTorch's operators.

    Returns:
        ``(B, H, W, C)``, in the precision of ``x + projection(attended)``.
    """
    dtype = product_dtype(projection.weight)
    x_rows, attended_rows = (t.reshape(-1, t.shape[-1]) for t in (x, attended))
    inputs = (x_rows, attended_rows.to(dtype), *scales)
    if torch.is_grad_enabled():
        parameters = (*projection, norm.weight, norm.bias, *fc1, *fc2)
        out = _AfterAttention.apply(*inputs, norm.eps, dtype, impl, *parameters)
    else:
        layers = BlockEnd(projection, norm, fc1, fc2).to(dtype)
        out = _computation(x_rows, dtype, impl).forward(*inputs, layers, keep=False)[0]
    return out.view(x.shape)


def _computation(x: Tensor, dtype: torch.dtype, impl: str) -> ModuleType:
    """Who computes: its ``forward`` and ``backward``."""
    if takes_triton(impl, x, dtype):
        from swin_dense.ops.block.triton import proj_mlp as triton_end

        return triton_end
    return plain_end


def _differentiable(
    x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
    eps: float, dtype: torch.dtype, _impl: str, *parameters: Tensor | None,
) -> Tensor:  # fmt: skip
    """The same in PyTorch's differentiable functions."""
    projection, norm, fc1, fc2 = BlockEnd.of(parameters, eps).to(dtype)

    def scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
        if scale is None:
            return branch
        return (branch.view(len(scale), -1, branch.shape[1]) * scale[:, None, None]).flatten(0, 1)

    x = x + scaled(F.linear(attended, *projection), scale_1)
    normed = F.layer_norm(x.to(norm.weight.dtype), norm.weight.shape, *norm)
    branch = F.linear(F.gelu(F.linear(normed.to(dtype), *fc1)), *fc2)
    return x + scaled(branch, scale_2)


class _AfterAttention(torch.autograd.Function):
    """Keeps x and the attention's result, and of wide layers fc1's result."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
        eps: float, dtype: torch.dtype, impl: str, *parameters: Tensor | None,
    ) -> Tensor:  # fmt: skip
        layers = BlockEnd.of(parameters, eps).to(dtype)
        keep = any(ctx.needs_input_grad) and x.shape[1] > RECOMPUTED_CHANNELS
        inputs = (x, attended, scale_1, scale_2)
        out, *hidden = _computation(x, dtype, impl).forward(*inputs, layers, keep)
        ctx.save_for_backward(*inputs, hidden[0] if keep else None, *parameters)
        ctx.settings = eps, dtype, impl
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, attended, scale_1, scale_2, hidden, *parameters = ctx.saved_tensors
        inputs = (x, attended, scale_1, scale_2)
        eps, dtype, impl = ctx.settings
        if torch.is_grad_enabled():
            arguments = (*inputs, *ctx.settings, *parameters)
            return tuple(differentiable_gradients(_differentiable, arguments, grad))
        sums = Sums(("projection", "norm", "fc1", "fc2"), ctx.needs_input_grad[7:])
        layers = BlockEnd.of(parameters, eps).to(dtype)
        backward = _computation(x, dtype, impl).backward
        dx, d_attended = backward(*inputs, hidden, layers, grad.contiguous(), sums)
        return dx, d_attended, *[None] * 5, *sums.like(parameters)
