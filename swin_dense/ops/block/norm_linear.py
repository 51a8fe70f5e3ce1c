"""LayerNorm and the linear layer behind it, as one function that keeps its input alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block import matmul as products
from swin_dense.ops.block.layers import (
    Linear,
    Norm,
    Sums,
    by_chunks,
    normalise,
    normalise_backward,
    product_dtype,
)
from swin_dense.ops.block.triton.support import takes_triton, unfit_product
from swin_dense.ops.dispatch import differentiable_gradients, out_of_graphs

Arrange = Callable[[Tensor], Tensor] | None


@out_of_graphs
def norm_linear(
    x: Tensor, norm: Norm, linear: Linear, arrange: Arrange = None, impl: str = "auto"
) -> Tensor:
    """``linear(norm(arrange(x)))``, in autocast's precision if it is on.

    Args:
        x: ``(..., C)``.
        norm: over C channels, or those that ``arrange`` makes.
        linear: its number of input channels is the norm's.
        arrange: moves or copies numbers, and does no more, as patch merging does; its result is
            not kept either. None for nothing.
        impl: 'triton' for our kernels where they can run; anything else is PyTorch's operators.

    Returns:
        ``(..., out)``.
    """
    dtype = product_dtype(linear.weight)
    if torch.is_grad_enabled():
        return _NormLinear.apply(x, arrange, impl, dtype, norm.eps, *norm[:2], *linear)
    return _forward(_arranged(x, arrange), norm, linear.to(dtype), impl)


def _arranged(x: Tensor, arrange: Arrange) -> Tensor:
    return x if arrange is None else arrange(x)


def _forward(x: Tensor, norm: Norm, linear: Linear, impl: str) -> Tensor:
    """``(..., C)`` to ``(..., out)``, in the precision of ``linear``."""
    rows, dtype = x.reshape(-1, x.shape[-1]), linear.weight.dtype
    if takes_triton(impl, rows, dtype):
        from swin_dense.ops.block.triton import launch as triton_block

        if unfit_product(rows, dtype, len(linear.weight)) is None:
            out = triton_block.norm_linear(rows, *norm, *linear)
        else:
            out = F.linear(triton_block.layer_norm(rows, *norm, dtype), *linear)
    else:
        (out,) = by_chunks(
            lambda some: (products.linear(normalise(rows[some], norm)[0].to(dtype), *linear),),
            rows,
            len(linear.weight),
        )
    return out.view(*x.shape[:-1], -1 if x.numel() else len(linear.weight))


def _backward(x: Tensor, grad: Tensor, norm: Norm, weight: Tensor, impl: str, sums: Sums) -> Tensor:
    """Gradient of ``x``, ``(..., C)``; adds those of norm and linear layer to ``sums``."""
    rows, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    if takes_triton(impl, rows, weight.dtype):
        from swin_dense.ops.block.triton import launch as triton_block

        sums.add_linear("linear", grad, triton_block.layer_norm(rows, *norm, weight.dtype))
        dx, *d_norm, _ = triton_block.layer_norm_backward(
            grad @ weight, rows, norm.weight, norm.eps, None, None, None
        )
        sums.add_norm(*d_norm)
        return dx.view(x.shape)

    def some(at: slice) -> tuple[Tensor]:
        normed, mean, rstd = normalise(rows[at], norm)
        sums.add_linear("linear", grad[at], normed.to(weight.dtype))
        d_normed = products.input_gradient(grad[at], weight)
        return (normalise_backward(d_normed, rows[at], mean, rstd, norm, sums).to(x.dtype),)

    return by_chunks(some, rows, len(weight))[0].view(x.shape)


def _differentiable(
    x: Tensor, arrange: Arrange, _impl: str, dtype: torch.dtype, eps: float,
    norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """The same in PyTorch's differentiable functions."""
    x = _arranged(x, arrange).to(norm_weight.dtype)
    normed = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps)
    return F.linear(normed.to(dtype), *Linear(weight, bias).to(dtype))


class _NormLinear(torch.autograd.Function):
    """Keeps x."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, arrange: Arrange, impl: str, dtype: torch.dtype, eps: float,
        norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, bias)
        ctx.settings = arrange, impl, dtype, eps
        norm, linear = Norm(norm_weight, norm_bias, eps), Linear(weight, bias).to(dtype)
        return _forward(_arranged(x, arrange), norm, linear, impl)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *parameters = ctx.saved_tensors
        arrange, impl, dtype, eps = ctx.settings
        if torch.is_grad_enabled():
            arguments = (x, *ctx.settings, *parameters)
            return tuple(differentiable_gradients(_differentiable, arguments, grad))
        sums = Sums(("norm", "linear"), ctx.needs_input_grad[5:])
        norm, weight = Norm(parameters[0], parameters[1], eps), parameters[2].to(dtype)
        if arrange is None:
            dx = _backward(x, grad, norm, weight, impl, sums)
        else:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                arranged = arrange(leaf)
            d_arranged = _backward(arranged.detach(), grad, norm, weight, impl, sums)
            (dx,) = torch.autograd.grad(arranged, leaf, d_arranged)
        return dx, *[None] * 4, *sums.like(parameters)
