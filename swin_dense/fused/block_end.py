"""What a block does after its attention, as one function (the second half of equation 3).

``middle = x + projection(attended)``, ``out = middle + fc2(GELU(fc1(LayerNorm(middle))))``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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

# Up to so many channels, fc1 is cheaper to compute again than its result is to keep.
RECOMPUTED_CHANNELS = 256


class _Layers(NamedTuple):
    projection: Linear
    norm: Norm
    fc1: Linear
    fc2: Linear

    @classmethod
    def of(cls, parameters: tuple[Tensor | None, ...], eps: float) -> _Layers:
        """From weight and bias of each in turn."""
        wp, bp, wn, bn, w1, b1, w2, b2 = parameters
        return cls(Linear(wp, bp), Norm(wn, bn, eps), Linear(w1, b1), Linear(w2, b2))  # type: ignore[arg-type]

    def to(self, dtype: torch.dtype) -> _Layers:
        """With the linear layers in another precision."""
        projection, norm, fc1, fc2 = self
        return _Layers(projection.to(dtype), norm, fc1.to(dtype), fc2.to(dtype))


def after_attention(
    x: Tensor,
    attended: Tensor,
    projection: Linear,
    norm: Norm,
    fc1: Linear,
    fc2: Linear,
    scales: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """Output of a block from its input and the result of its attention.

    Args:
        x: ``(B, H, W, C)``, the block's input.
        attended: ``(B, H, W, C)``, heads side by side, not projected yet.
        projection, norm, fc1, fc2: layers, of C, C, hidden and C channels.
        scales: ``(B,)`` each, what the projection and the perceptron are multiplied by in every
            image: 0 or 1 / keep in stochastic depth; None for 1.

    Returns:
        ``(B, H, W, C)``, in the precision of ``x + projection(attended)``.
    """
    dtype = product_dtype(projection.weight)
    x_rows, attended_rows = (t.reshape(-1, t.shape[-1]) for t in (x, attended))
    per_image = len(x_rows) // max(1, len(x))
    scale_1, scale_2 = (
        None if s is None else s.repeat_interleave(per_image)[:, None] for s in scales
    )
    inputs = (x_rows, attended_rows.to(dtype), scale_1, scale_2)
    if torch.is_grad_enabled():
        parameters = (*projection, norm.weight, norm.bias, *fc1, *fc2)
        out = _AfterAttention.apply(*inputs, norm.eps, dtype, *parameters)
    else:
        out = _forward(*inputs, _Layers(projection, norm, fc1, fc2).to(dtype), None)
    return out.view(x.shape)


def _plus(x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    """``x + scale * branch``; may write over the branch."""
    if scale is not None:
        return torch.addcmul(x, branch, scale)
    return branch.add_(x) if branch.dtype == x.dtype else x + branch


def _forward(
    x: Tensor,
    attended: Tensor,
    scale_1: Tensor | None,
    scale_2: Tensor | None,
    layers: _Layers,
    hidden: Tensor | None,
) -> Tensor:
    """Rows ``(T, C)`` to ``(T, C)``; writes fc1's result ``(T, hidden)`` to ``hidden``."""
    out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, attended.dtype))
    for rows in chunks(x, len(layers.fc1.weight)):
        s_1, s_2 = (None if s is None else s[rows] for s in (scale_1, scale_2))
        middle = _plus(x[rows], products.linear(attended[rows], *layers.projection), s_1)
        normed = normalise(middle, layers.norm)[0].to(attended.dtype)
        if hidden is None:
            active = products.linear_gelu(normed, *layers.fc1)
        else:
            hidden[rows] = products.linear(normed, *layers.fc1)
            active = F.gelu(hidden[rows])
        out[rows] = _plus(middle, products.linear(active, *layers.fc2), s_2)
    return out


def _plain(
    x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
    eps: float, dtype: torch.dtype, *parameters: Tensor | None,
) -> Tensor:  # fmt: skip
    """The same in PyTorch's differentiable functions."""
    projection, norm, fc1, fc2 = _Layers.of(parameters, eps).to(dtype)
    branch = F.linear(attended, *projection)
    x = x + (branch if scale_1 is None else branch * scale_1)
    normed = F.layer_norm(x.to(norm.weight.dtype), norm.weight.shape, *norm)
    branch = F.linear(F.gelu(F.linear(normed.to(dtype), *fc1)), *fc2)
    return x + (branch if scale_2 is None else branch * scale_2)


class _AfterAttention(torch.autograd.Function):
    """Keeps x and the attention's result, and of wide layers fc1's result."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
        eps: float, dtype: torch.dtype, *parameters: Tensor | None,
    ) -> Tensor:  # fmt: skip
        layers = _Layers.of(parameters, eps).to(dtype)
        hidden = None
        if any(ctx.needs_input_grad) and x.shape[1] > RECOMPUTED_CHANNELS:
            hidden = x.new_empty(len(x), len(layers.fc1.weight), dtype=dtype)
        ctx.save_for_backward(x, attended, scale_1, scale_2, hidden, *parameters)
        ctx.eps, ctx.dtype = eps, dtype
        return _forward(x, attended, scale_1, scale_2, layers, hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, attended, scale_1, scale_2, hidden, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (x, attended, scale_1, scale_2, ctx.eps, ctx.dtype, *parameters)
            return tuple(differentiable_gradients(_plain, inputs, grad))
        layers = _Layers.of(tuple(parameters), ctx.eps).to(ctx.dtype)
        sums = Sums(ctx.needs_input_grad[6:])
        dx, d_attended = torch.empty_like(x), torch.empty_like(attended)
        for rows in chunks(x, len(layers.fc1.weight)):
            s_1, s_2 = (None if s is None else s[rows] for s in (scale_1, scale_2))
            kept = None if hidden is None else hidden[rows]
            dx[rows], d_attended[rows] = _backward_rows(
                x[rows], attended[rows], s_1, s_2, kept, layers, grad[rows], sums
            )
        return dx, d_attended, *[None] * 4, *sums.like(parameters)


def _backward_rows(
    x: Tensor,
    attended: Tensor,
    scale_1: Tensor | None,
    scale_2: Tensor | None,
    hidden: Tensor | None,
    layers: _Layers,
    grad: Tensor,
    sums: Sums,
) -> tuple[Tensor, Tensor]:
    """Gradients of some rows of x and of the attention's result; adds those of parameters."""
    projection, norm, fc1, fc2 = layers
    dtype = attended.dtype
    middle = _plus(x, products.linear(attended, *projection), scale_1)
    normed, mean, rstd = normalise(middle, norm)
    normed = normed.to(dtype)
    if hidden is None:
        hidden = products.linear(normed, *fc1)
    d_branch = (grad if scale_2 is None else grad * scale_2).to(dtype)
    sums.add_linear(6, d_branch, F.gelu(hidden))
    d_hidden = products.input_gradient(d_branch, fc2.weight)
    torch.ops.aten.gelu_backward.grad_input(d_hidden, hidden, grad_input=d_hidden)
    sums.add_linear(4, d_hidden, normed)
    d_normed = products.input_gradient(d_hidden, fc1.weight)
    wanted = (True, *sums.wanted[2:4])
    d_middle, *d_norm = normalise_backward(d_normed, middle, mean, rstd, norm, wanted)
    sums.add(2, d_norm[0])
    sums.add(3, d_norm[1])
    d_middle = d_middle + grad if d_middle.dtype != grad.dtype else d_middle.add_(grad)
    d_branch = (d_middle if scale_1 is None else d_middle * scale_1).to(dtype)
    sums.add_linear(0, d_branch, attended)
    return d_middle, products.input_gradient(d_branch, projection.weight)
