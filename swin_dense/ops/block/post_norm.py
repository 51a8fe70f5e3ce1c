"""What a block with norms after its layers computes after its attention (Swin V2, figure 1).

By PyTorch's operators, in chunks of rows that stay in the cache of a CPU, as :mod:`.pytorch`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block.api import RECOMPUTED_CHANNELS, product_dtype
from swin_dense.ops.block.layers import Linear, Norm, ParamGrads, Scales
from swin_dense.ops.block.pytorch import (
    NONE,
    Scale,
    add_linear,
    add_scaled,
    input_gradient,
    linear,
    linear_gelu,
    map_row_chunks,
    normalise,
    normalise_backward,
    times,
)
from swin_dense.ops.dispatch import cast_together, differentiable_gradients, dynamo_disabled


class Layers(NamedTuple):
    """The layers after the attention of a block, in the order that they are computed in."""

    proj: Linear
    norm1: Norm
    fc1: Linear
    fc2: Linear
    norm2: Norm

    @property
    def products(self) -> list[Tensor | None]:
        """Weights and biases of the linear layers."""
        return [*self.proj, *self.fc1, *self.fc2]

    @property
    def parameters(self) -> list[Tensor | None]:
        """All weights and biases."""
        return [*self.proj, *self.norm1[:2], *self.fc1, *self.fc2, *self.norm2[:2]]

    @classmethod
    def of(cls, parameters: Sequence[Any], eps: tuple[float, float]) -> "Layers":
        """The layers of :attr:`parameters`, with this eps of their norms."""
        p = list(parameters)
        norm1, norm2 = Norm(p[2], p[3], eps[0]), Norm(p[8], p[9], eps[1])
        return cls(Linear(*p[:2]), norm1, Linear(*p[4:6]), Linear(*p[6:8]), norm2)

    def with_products(self, products: Sequence[Any]) -> "Layers":
        """The same with other :attr:`products`."""
        p = list(products)
        return self._replace(proj=Linear(*p[:2]), fc1=Linear(*p[2:4]), fc2=Linear(*p[4:]))


@dynamo_disabled
def proj_mlp_post_norm(
    x: Tensor, attended: Tensor, layers: Layers, scales: Scales = (None, None)
) -> Tensor:
    """What a block computes after its attention.

    ``middle = x + LayerNorm1(proj(attended))``,
    ``out = middle + LayerNorm2(fc2(GELU(fc1(middle))))``.

    Args:
        x: ``(B, H, W, C)``, the block's input.
        attended: ``(B, H, W, C)``, heads side by side, not projected yet.
        layers: of C, C, hidden, C and C channels.
        scales: ``(B,)`` each, factors of the two branches for every image: 0 or 1 / keep in
            stochastic depth; None for 1.

    Returns:
        ``(B, H, W, C)``, in the precision of ``x`` plus a norm's result.
    """
    dtype = product_dtype(layers.proj.weight)
    rows = x.reshape(-1, x.shape[-1])
    attended = attended.reshape(rows.shape).to(dtype)
    if torch.is_grad_enabled():
        eps = layers.norm1.eps, layers.norm2.eps
        out = _ProjMlp.apply(rows, attended, *scales, eps, dtype, *layers.parameters)
    else:
        cast = layers.with_products(cast_together(layers.products, dtype))
        out = _forward(rows, attended, scales, cast, keep=False)[0]
    return out.view(x.shape)


class _ProjMlp(torch.autograd.Function):
    """Keeps x and the attention's result, and of wide layers the results of fc1 and fc2."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
        eps: tuple[float, float], dtype: torch.dtype, *parameters: Tensor | None,
    ) -> Tensor:  # fmt: skip
        keep = any(ctx.needs_input_grad) and x.shape[1] > RECOMPUTED_CHANNELS
        layers, scales = Layers.of(parameters, eps), (scale_1, scale_2)
        products = cast_together(layers.products, dtype)
        out, *results = _forward(x, attended, scales, layers.with_products(products), keep)
        kept = results if keep else (None, None)
        ctx.save_for_backward(x, attended, *scales, *kept, *products, *parameters)
        ctx.settings = eps, dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, attended, scale_1, scale_2, *others = ctx.saved_tensors
        kept, others = others[:2], others[2:]
        products, parameters = others[:6], others[6:]
        scales = scale_1, scale_2
        if torch.is_grad_enabled():  # the gradients will be differentiated
            inputs = (x, attended, *scales, *ctx.settings, *parameters)
            return tuple(differentiable_gradients(_plain, inputs, grad))
        names = ("proj", "norm1", "fc1", "fc2", "norm2")
        grads = ParamGrads(names, ctx.needs_input_grad[6:])
        layers = Layers.of(parameters, ctx.settings[0]).with_products(products)
        found = _backward(x, attended, scales, kept, layers, grad.contiguous(), grads)
        return *found, *[None] * 4, *grads.like(parameters)


def _is_zero(scale: Scale) -> bool:
    return isinstance(scale, float) and not scale


def _forward(
    x: Tensor, attended: Tensor, scales: Scales, layers: Layers, keep: bool
) -> tuple[Tensor, ...]:
    """Rows ``(T, C)`` to ``(T, C)``; with ``keep`` also the results of fc1 and fc2.

    What ``keep`` returns of images whose MLP is dropped has no meaning.
    """
    proj, norm1, fc1, fc2, norm2 = layers
    dtype = attended.dtype

    def forward(rows: slice, scale_1: Scale, scale_2: Scale) -> tuple[Tensor, ...]:
        middle = _branch(x[rows], attended[rows], proj, norm1, scale_1)
        if _is_zero(scale_2):
            widths = [len(fc1.weight), len(fc2.weight)] * keep
            return (middle, *(x.new_empty(len(middle), width, dtype=dtype) for width in widths))
        if keep:
            hidden = linear(middle.to(dtype), *fc1)
            result = linear(F.gelu(hidden), *fc2)
            return add_scaled(middle, normalise(result, norm2)[0], scale_2), hidden, result
        active = linear_gelu(middle.to(dtype), *fc1)
        return (_branch(middle, active, fc2, norm2, scale_2),)

    return map_row_chunks(forward, x, len(fc1.weight), dtype, scales)


def _branch(total: Tensor, x: Tensor, layer: Linear, norm: Norm, scale: Scale) -> Tensor:
    """``total + scale * norm(layer(x))``."""
    if _is_zero(scale):
        return total.to(torch.promote_types(total.dtype, x.dtype), copy=True)
    return add_scaled(total, normalise(linear(x, *layer), norm)[0], scale)


def _backward(
    x: Tensor,
    attended: Tensor,
    scales: Scales,
    kept: Sequence[Tensor | None],
    layers: Layers,
    grad: Tensor,
    grads: ParamGrads,
) -> tuple[Tensor, ...]:
    """Gradients of x and of the attention's result; adds those of the layers to ``grads``."""
    proj, norm1, fc1, fc2, norm2 = layers
    dtype = attended.dtype
    hidden, result = kept

    def mlp(grad: Tensor, middle: Tensor, rows: slice, scale: Scale) -> Tensor:
        """Gradient of the MLP's input."""
        middle = middle.to(dtype)
        entering = linear(middle, *fc1) if hidden is None else hidden[rows]
        active = F.gelu(entering)
        leaving = linear(active, *fc2) if result is None else result[rows]
        d_out = _norm_backward(grad, leaving, norm2, scale, grads, "norm2")
        add_linear(grads, "fc2", d_out, active, rows)
        d_hidden = input_gradient(d_out, fc2.weight)
        torch.ops.aten.gelu_backward.grad_input(d_hidden, entering, grad_input=d_hidden)
        add_linear(grads, "fc1", d_hidden, middle, rows)
        return input_gradient(d_hidden, fc1.weight)

    def backward(rows: slice, scale_1: Scale, scale_2: Scale) -> tuple[Tensor, ...]:
        # Of no rows: gradients of parameters that are zero, not missing.
        used_1 = NONE if _is_zero(scale_1) else rows
        projected = linear(attended[used_1], *proj)
        d_middle = grad[rows]
        if _is_zero(scale_2):
            mlp(grad[NONE], x[NONE], NONE, None)
        else:
            middle = x[rows]
            if not _is_zero(scale_1):
                middle = add_scaled(middle, normalise(projected, norm1)[0], scale_1)
            d_middle = add_scaled(d_middle, mlp(d_middle, middle, rows, scale_2), None)
        scale_1 = None if _is_zero(scale_1) else scale_1
        d_branch = d_middle if used_1 is rows else d_middle[NONE]
        d_projected = _norm_backward(d_branch, projected, norm1, scale_1, grads, "norm1")
        add_linear(grads, "proj", d_projected, attended[used_1], rows)
        if used_1 is not rows:
            return d_middle.to(x.dtype), torch.zeros_like(attended[rows])
        return d_middle.to(x.dtype), input_gradient(d_projected, proj.weight)

    return map_row_chunks(backward, x, len(fc1.weight), dtype, scales)


def _norm_backward(
    grad: Tensor, x: Tensor, norm: Norm, scale: Scale, grads: ParamGrads, name: str
) -> Tensor:
    """Gradient of x in ``scale * norm(x)``, of x's type; adds those of the norm to ``grads``."""
    _, mean, rstd = normalise(x, norm)
    dx = normalise_backward(times(grad, scale), x, mean, rstd, norm, grads, name)
    return dx.to(x.dtype)


def _plain(
    x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
    eps: tuple[float, float], dtype: torch.dtype, *parameters: Tensor | None,
) -> Tensor:  # fmt: skip
    layers = Layers.of(parameters, eps)
    products = [None if p is None else p.to(dtype) for p in layers.products]
    proj, norm1, fc1, fc2, norm2 = layers.with_products(products)

    def normed(branch: Tensor, norm: Norm, scale: Tensor | None) -> Tensor:
        branch = F.layer_norm(branch.to(norm.weight.dtype), norm.weight.shape, *norm)
        if scale is None:
            return branch
        return (branch.view(len(scale), -1, branch.shape[1]) * scale[:, None, None]).flatten(0, 1)

    middle = x + normed(F.linear(attended, *proj), norm1, scale_1)
    hidden = F.gelu(F.linear(middle.to(dtype), *fc1))
    return middle + normed(F.linear(hidden, *fc2), norm2, scale_2)
