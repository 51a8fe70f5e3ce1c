"""LayerNorm and the linear layer behind it, as one function that keeps its input alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.fused import products
from swin_dense.fused.layers import (
    Linear,
    Norm,
    Sums,
    chunks,
    differentiable_gradients,
    normalise,
    normalise_backward,
    product_dtype,
)


def norm_linear(
    x: Tensor, norm: Norm, linear: Linear, arrange: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """``linear(norm(arrange(x)))``, in autocast's precision if it is on.

    Args:
        x: ``(..., C)``.
        norm: over C channels, or those that ``arrange`` makes.
        linear: its number of input channels is the norm's.
        arrange: moves or copies numbers, and does no more, as patch merging does; its result is
            not kept either. None for nothing.

    Returns:
        ``(..., out)``.
    """
    dtype = product_dtype(linear.weight)
    if torch.is_grad_enabled():
        return _NormLinear.apply(x, arrange, *norm, *linear, dtype)
    return _forward(_arranged(x, arrange), norm, linear.to(dtype))


def _arranged(x: Tensor, arrange: Callable[[Tensor], Tensor] | None) -> Tensor:
    return x if arrange is None else arrange(x)


def _forward(x: Tensor, norm: Norm, linear: Linear) -> Tensor:
    """``(..., C)`` to ``(..., out)``, in the precision of ``linear``."""
    out_channels, dtype = len(linear.weight), linear.weight.dtype
    shape = (*x.shape[:-1], out_channels)
    x = x.reshape(-1, x.shape[-1])
    out: Tensor | None = None
    for rows in chunks(x, out_channels):
        result = products.linear(normalise(x[rows], norm)[0].to(dtype), *linear)
        if len(result) == len(x):
            return result.view(shape)
        if out is None:
            out = result.new_empty(len(x), out_channels)
        out[rows] = result
    return x.new_empty(shape, dtype=dtype) if out is None else out.view(shape)


def _plain(
    x: Tensor, arrange: Callable[[Tensor], Tensor] | None,
    norm_weight: Tensor, norm_bias: Tensor, eps: float,
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The same in PyTorch's differentiable functions."""
    x = _arranged(x, arrange).to(norm_weight.dtype)
    normed = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps)
    return F.linear(normed.to(dtype), *Linear(weight, bias).to(dtype))


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, arrange: Callable[[Tensor], Tensor] | None,
        norm_weight: Tensor, norm_bias: Tensor, eps: float,
        weight: Tensor, bias: Tensor | None, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, bias)
        ctx.arrange, ctx.eps, ctx.dtype = arrange, eps, dtype
        norm, linear = Norm(norm_weight, norm_bias, eps), Linear(weight, bias).to(dtype)
        return _forward(_arranged(x, arrange), norm, linear)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *parameters = ctx.saved_tensors
        norm_weight, norm_bias, weight, bias = parameters
        if torch.is_grad_enabled():
            inputs = (x, ctx.arrange, norm_weight, norm_bias, ctx.eps, weight, bias, ctx.dtype)
            return tuple(differentiable_gradients(_plain, inputs, grad))
        want_x, _, *want_norm, _, want_weight, want_bias, _ = ctx.needs_input_grad
        sums = Sums((*want_norm, want_weight, want_bias))
        norm = Norm(norm_weight, norm_bias, ctx.eps)
        dx = None
        if ctx.arrange is None:
            dx = _backward(x, grad, norm, weight.to(ctx.dtype), want_x, sums)
        else:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                arranged = ctx.arrange(leaf)
            d_arranged = _backward(
                arranged.detach(), grad, norm, weight.to(ctx.dtype), want_x, sums
            )
            if d_arranged is not None:
                (dx,) = torch.autograd.grad(arranged, leaf, d_arranged)
        d_norm_weight, d_norm_bias, d_weight, d_bias = sums.like(parameters)
        return dx, None, d_norm_weight, d_norm_bias, None, d_weight, d_bias, None


def _backward(
    x: Tensor, grad: Tensor, norm: Norm, weight: Tensor, want_x: bool, sums: Sums
) -> Tensor | None:
    """Gradient of ``x`` ``(..., C)`` if it is wanted; adds those of norm and linear layer."""
    shape = x.shape
    x, grad = x.reshape(-1, shape[-1]), grad.reshape(-1, grad.shape[-1])
    wanted = (want_x, *sums.wanted[:2])
    dx = torch.empty_like(x) if want_x else None
    for rows in chunks(x, len(weight)):
        normed, mean, rstd = normalise(x[rows], norm)
        sums.add_linear(2, grad[rows], normed.to(weight.dtype))
        if any(wanted):
            d_normed = products.input_gradient(grad[rows], weight)
            d_x, *d_norm = normalise_backward(d_normed, x[rows], mean, rstd, norm, wanted)
            sums.add(0, d_norm[0])
            sums.add(1, d_norm[1])
            if dx is not None:
                dx[rows] = d_x
    return None if dx is None else dx.view(shape)
