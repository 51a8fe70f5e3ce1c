"""A block's layers by PyTorch's operators, on a CPU in chunks of rows that stay in its cache.

Functions of rows ``(T, C)``, without autograd. Matrix products of fp32 go to oneDNN where
:func:`~.dispatch.use_onednn` says that it is faster. Those of bf16 are oneDNN's in any case; asked
for directly, it adds biases and residuals and computes GELU as it writes the product.
"""

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block.layers import Linear, Norm, ParamGrads, ProjMlp, Scales
from swin_dense.ops.dispatch import (
    onednn_linear,
    onednn_linear_add,
    onednn_weight_gradient,
    use_onednn,
    use_onednn_bf16,
)

# Bytes of the widest intermediate feature map that are worked on at once on a CPU: they stay in the
# cache from one operation to the next.
_CHUNK = 2**24

# Rows of the smallest part that is computed apart, without the branches that others drop.
_FEWEST_ROWS = 512

# Factor of a branch: of all rows, ``(T, 1)`` of each row, or None for 1. A branch of factor 0, that
# stochastic depth drops, is not computed.
Scale = float | Tensor | None

_ALL, NONE = slice(None), slice(0, 0)


def norm_linear(x: Tensor, norm: Norm | None, linear_: Linear) -> Tensor:
    """``(T, C)`` to ``(T, out)``, in the precision of ``linear_``."""
    # All rows at once: to copy chunks of the wide result together takes longer than to read the
    # norm's from memory.
    x = x if norm is None else normalise(x, norm)[0]
    return linear(x.to(linear_.weight.dtype), *linear_)


def norm_linear_backward(
    x: Tensor, grad: Tensor, norm: Norm | None, weight: Tensor, grads: ParamGrads
) -> Tensor:
    """Gradient of ``x``, ``(T, C)``; adds those of norm and linear layer to ``grads``."""

    def backward(rows: slice, *_: Scale) -> tuple[Tensor, ...]:
        if norm is None:
            add_linear(grads, "linear", grad[rows], x[rows].to(weight.dtype), rows)
            return (input_gradient(grad[rows], weight).to(x.dtype),)
        normed, mean, rstd = normalise(x[rows], norm)
        add_linear(grads, "linear", grad[rows], normed.to(weight.dtype), rows)
        d_normed = input_gradient(grad[rows], weight)
        return (normalise_backward(d_normed, x[rows], mean, rstd, norm, grads).to(x.dtype),)

    return map_row_chunks(backward, x, len(weight), grad.dtype)[0]


def proj_mlp(
    x: Tensor, attended: Tensor, scales: Scales, layers: ProjMlp, keep: bool
) -> tuple[Tensor, ...]:
    """Rows ``(T, C)`` to ``(T, C)``; with ``keep`` also fc1's result, ``(T, hidden)``.

    What ``keep`` returns of images whose MLP is dropped has no meaning.
    """
    proj, norm, fc1, fc2 = layers
    dtype = attended.dtype

    def forward(rows: slice, scale_1: Scale, scale_2: Scale) -> tuple[Tensor, ...]:
        middle = linear_add(x[rows], attended[rows], proj, scale_1)
        if isinstance(scale_2, float) and not scale_2:
            return (middle, *([x.new_empty(len(middle), len(fc1.weight), dtype=dtype)] * keep))
        normed = normalise(middle, norm)[0].to(dtype)
        if keep:
            hidden = linear(normed, *fc1)
            active = F.gelu(hidden)
        else:
            active = linear_gelu(normed, *fc1)
        out = linear_add(middle, active, fc2, scale_2)
        return (out, hidden) if keep else (out,)

    return map_row_chunks(forward, x, len(fc1.weight), dtype, scales)


def proj_mlp_backward(
    x: Tensor,
    attended: Tensor,
    scales: Scales,
    hidden: Tensor | None,
    layers: ProjMlp,
    grad: Tensor,
    grads: ParamGrads,
) -> tuple[Tensor, ...]:
    """Gradients of x and of the attention's result; adds those of the layers to ``grads``."""
    proj, norm, fc1, fc2 = layers
    dtype = attended.dtype

    def mlp(rows: slice, scale_1: Scale, scale_2: Scale) -> Tensor:
        middle = linear_add(x[rows], attended[rows], proj, scale_1)
        normed, mean, rstd = normalise(middle, norm)
        normed = normed.to(dtype)
        entering = linear(normed, *fc1) if hidden is None else hidden[rows]
        d_branch = times(grad[rows], scale_2).to(dtype)
        add_linear(grads, "fc2", d_branch, F.gelu(entering), rows)
        d_hidden = input_gradient(d_branch, fc2.weight)
        torch.ops.aten.gelu_backward.grad_input(d_hidden, entering, grad_input=d_hidden)
        add_linear(grads, "fc1", d_hidden, normed, rows)
        d_normed = input_gradient(d_hidden, fc1.weight)
        d_middle = normalise_backward(d_normed, middle, mean, rstd, norm, grads)
        return add_scaled(grad[rows], d_middle, None)

    def backward(rows: slice, scale_1: Scale, scale_2: Scale) -> tuple[Tensor, ...]:
        d_middle = grad[rows]
        if isinstance(scale_2, float) and not scale_2:
            mlp(NONE, None, None)  # gradients of parameters that are zero, not missing
        else:
            d_middle = mlp(rows, scale_1, scale_2)
        if isinstance(scale_1, float) and not scale_1:
            add_linear(grads, "proj", grad[NONE].to(dtype), attended[NONE], rows)
            return d_middle.to(x.dtype), torch.zeros_like(attended[rows])
        d_branch = times(d_middle, scale_1).to(dtype)
        add_linear(grads, "proj", d_branch, attended[rows], rows)
        return d_middle.to(x.dtype), input_gradient(d_branch, proj.weight)

    return map_row_chunks(backward, x, len(fc1.weight), dtype, scales)


def map_row_chunks(
    function: Callable[[slice, Scale, Scale], tuple[Tensor, ...]],
    x: Tensor,
    width: int,
    dtype: torch.dtype,
    scales: Scales = (None, None),
) -> tuple[Tensor, ...]:
    """Results of ``function(rows, scale_1, scale_2)`` for all rows of ``x``, each ``(T, ...)``.

    On a CPU it is called with so few rows at a time that ``width`` channels of them in ``dtype``,
    the precision of products, stay in the cache; elsewhere once.
    """
    total = len(x)
    on_cpu = x.device.type == "cpu"
    step = max(1, _CHUNK // (width * dtype.itemsize)) if on_cpu else max(1, total)
    runs = _runs(total, scales) if on_cpu else []
    # Products of few rows are slow, and in 16 bits each chunk's gradients of weights are rounded.
    if len(runs) != 1 and (
        dtype.itemsize == 2 or min((run[0] for run in runs), default=0) < _FEWEST_ROWS
    ):
        runs = [(total, _by_row(scales[0], x), _by_row(scales[1], x))]
    if len(runs) == 1 and total <= step:
        return function(_ALL, *runs[0][1:])
    results: list[Tensor] = []
    end = 0
    for count, *factors in runs:
        start, end = end, end + count
        for first in range(start, end, step):
            rows = slice(first, min(first + step, end))
            parts = function(rows, *(s[rows] if isinstance(s, Tensor) else s for s in factors))
            results = results or [part.new_empty(total, *part.shape[1:]) for part in parts]
            for result, part in zip(results, parts, strict=True):
                result[rows] = part
    return tuple(results)


def _runs(total: int, scales: Scales) -> list[tuple[int, Scale, Scale]]:
    """Rows of successive images with the same two factors: how many, and the factors."""
    one, two = scales
    if not total or (one is None and two is None):
        return [(total, None, None)]
    images = len(two if one is None else one)  # type: ignore[arg-type]
    factors_1 = [None] * images if one is None else one.tolist()
    factors_2 = [None] * images if two is None else two.tolist()
    runs = []
    for pair, run in groupby(zip(factors_1, factors_2, strict=True)):
        runs.append((total // images * len(list(run)), *pair))
    return runs


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``: ``(T, in)`` and ``(out, in)`` to ``(T, out)``."""
    if _by_onednn(x, weight):
        return onednn_linear(x, weight, bias, "none")
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`linear`, then the exact GELU."""
    if _by_onednn(x, weight):
        return onednn_linear(x, weight, bias, "gelu")
    hidden = F.linear(x, weight, bias)
    return torch.ops.aten.gelu.out(hidden, out=hidden)


def linear_add(total: Tensor, x: Tensor, layer: Linear, scale: Scale) -> Tensor:
    """``total + scale * linear(x)``, in the precision of the sum.

    ``(T, out)`` and ``(T, in)`` to ``(T, out)``.
    """
    weight, bias = layer
    if isinstance(scale, float) and not scale:
        return total.to(torch.promote_types(total.dtype, x.dtype), copy=True)
    if isinstance(scale, Tensor) or total.dtype != x.dtype or x.device.type != "cpu":
        return add_scaled(total, linear(x, weight, bias), scale)
    alpha = 1.0 if scale is None else scale
    if _by_onednn(x, weight):
        if scale is None:
            return onednn_linear_add(total, x, weight, bias)
        return torch.add(total, onednn_linear(x, weight, bias, "none"), alpha=alpha)
    # MKL adds to what is there as it writes the product.
    if bias is None:
        return torch.addmm(total, x, weight.t(), alpha=alpha)
    return torch.add(total, bias, alpha=alpha).addmm_(x, weight.t(), alpha=alpha)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    if x.dtype == torch.bfloat16:
        return use_onednn_bf16(x)
    return use_onednn(x, x.shape[0] * weight.numel())


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a linear layer's input: ``(T, out)`` and ``(out, in)`` to ``(T, in)``."""
    if use_onednn(grad, grad.shape[0] * weight.numel()):
        return onednn_linear(grad, weight.t(), None, "none")
    return grad @ weight


def weight_gradient(grad: Tensor, x: Tensor, total: Tensor | None) -> Tensor:
    """Gradient of a linear layer's weight: ``(T, out)`` and ``(T, in)`` to ``(out, in)``.

    Added to ``total`` in place, if that is not None; it has the same precision.
    """
    if use_onednn(grad, x.numel() * grad.shape[1], backward=True):
        found = onednn_weight_gradient(grad, x)
        return found if total is None else total.add_(found)
    return grad.t() @ x if total is None else total.addmm_(grad.t(), x)


def add_linear(grads: ParamGrads, name: str, grad: Tensor, x: Tensor, rows: slice) -> None:
    """Add to the gradients of a linear layer, from its output's ``(T, out)`` and its input."""
    d_bias = None
    if rows == _ALL and grad.device.type == "cpu" and grads.wants(name)[1]:
        d_bias = grad.sum(0)  # rounded once, and of 16 bits four times as fast as to fp32
    grads.add_linear(name, grad, x, weight_gradient, d_bias)


def _norm_dtype(x: Tensor, norm: Norm) -> torch.dtype:
    """Precision of the norm's input and result; statistics are in the norm's own."""
    # A CPU's operators read and write 16 bits beside parameters of fp32, and compute in fp32.
    mixed = x.device.type == "cpu" and norm.weight.dtype == torch.float32
    return x.dtype if mixed and x.element_size() == 2 else norm.weight.dtype


def normalise(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of rows ``(T, C)``; mean and 1 / deviation ``(T, 1)``."""
    return torch.native_layer_norm(x.to(_norm_dtype(x, norm)), norm.weight.shape, *norm)


def normalise_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    norm: Norm,
    grads: ParamGrads,
    name: str = "norm",
) -> Tensor:
    """Gradient of :func:`normalise`'s input; adds those of its parameters to ``grads``."""
    weight, bias, _ = norm
    dtype = _norm_dtype(x, norm)
    dx, *d_norm = torch.ops.aten.native_layer_norm_backward(
        grad.to(dtype), x.to(dtype), weight.shape, mean, rstd, weight, bias,
        [True, *grads.wants(name)],
    )  # fmt: skip
    grads.add_norm(*d_norm, name=name)
    return dx


def _by_row(scale: Tensor | None, x: Tensor) -> Tensor | None:
    """Factors ``(B,)`` of images for the rows of x, ``(T, 1)``."""
    return None if scale is None else scale.repeat_interleave(len(x) // max(1, len(scale)))[:, None]


def add_scaled(x: Tensor, branch: Tensor, scale: Scale) -> Tensor:
    """``x + scale * branch`` in the precision of ``x + branch``; may write over the branch."""
    if isinstance(scale, Tensor):
        return torch.addcmul(x, branch, scale).to(torch.promote_types(x.dtype, branch.dtype))
    if scale is not None:
        return torch.add(x, branch, alpha=scale)
    return branch.add_(x) if branch.dtype == x.dtype else x + branch


def times(grad: Tensor, scale: Scale) -> Tensor:
    """``scale * grad``."""
    return grad if scale is None else grad * scale
