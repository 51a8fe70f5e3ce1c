"""A block's layers by PyTorch's operators, on a CPU in chunks of rows that stay in its cache.

Functions of rows ``(T, C)``, without autograd. Matrix products of fp32 go to oneDNN where
:func:`~.dispatch.use_onednn` says that it is faster.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block.layers import Linear, Norm, ParamGrads, ProjMlp, Scales
from swin_dense.ops.dispatch import onednn_linear, onednn_weight_gradient, use_onednn

# Numbers of the widest intermediate feature map that are worked on at once on a CPU: 16 MB, which
# stay in the cache from one operation to the next.
_CHUNK = 2**22


def norm_linear(x: Tensor, norm: Norm, linear_: Linear) -> Tensor:
    """``(T, C)`` to ``(T, out)``, in the precision of ``linear_``."""

    def forward(rows: slice) -> tuple[Tensor, ...]:
        return (linear(_normalise(x[rows], norm)[0].to(linear_.weight.dtype), *linear_),)

    return map_row_chunks(forward, x, linear_.weight.shape[0])[0]


def norm_linear_backward(
    x: Tensor, grad: Tensor, norm: Norm, weight: Tensor, grads: ParamGrads
) -> Tensor:
    """Gradient of ``x``, ``(T, C)``; adds those of norm and linear layer to ``grads``."""

    def backward(rows: slice) -> tuple[Tensor, ...]:
        normed, mean, rstd = _normalise(x[rows], norm)
        grads.add_linear("linear", grad[rows], normed.to(weight.dtype), weight_gradient)
        d_normed = input_gradient(grad[rows], weight)
        return (_normalise_backward(d_normed, x[rows], mean, rstd, norm, grads).to(x.dtype),)

    return map_row_chunks(backward, x, len(weight))[0]


def proj_mlp(
    x: Tensor, attended: Tensor, scales: Scales, layers: ProjMlp, keep: bool
) -> tuple[Tensor, ...]:
    """Rows ``(T, C)`` to ``(T, C)``; with ``keep`` also fc1's result, ``(T, hidden)``."""
    proj, norm, fc1, fc2 = layers
    by_row_1, by_row_2 = _by_row(scales[0], x), _by_row(scales[1], x)

    def forward(rows: slice) -> tuple[Tensor, ...]:
        middle = _add(x[rows], linear(attended[rows], *proj), by_row_1, rows)
        normed = _normalise(middle, norm)[0].to(attended.dtype)
        if keep:
            hidden = linear(normed, *fc1)
            active = F.gelu(hidden)
        else:
            active = linear_gelu(normed, *fc1)
        out = _add(middle, linear(active, *fc2), by_row_2, rows)
        return (out, hidden) if keep else (out,)

    return map_row_chunks(forward, x, fc1.weight.shape[0])


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
    by_row_1, by_row_2 = _by_row(scales[0], x), _by_row(scales[1], x)

    def backward(rows: slice) -> tuple[Tensor, ...]:
        middle = _add(x[rows], linear(attended[rows], *proj), by_row_1, rows)
        normed, mean, rstd = _normalise(middle, norm)
        normed = normed.to(dtype)
        entering = linear(normed, *fc1) if hidden is None else hidden[rows]
        d_branch = _times(grad[rows], by_row_2, rows).to(dtype)
        grads.add_linear("fc2", d_branch, F.gelu(entering), weight_gradient)
        d_hidden = input_gradient(d_branch, fc2.weight)
        torch.ops.aten.gelu_backward.grad_input(d_hidden, entering, grad_input=d_hidden)
        grads.add_linear("fc1", d_hidden, normed, weight_gradient)
        d_normed = input_gradient(d_hidden, fc1.weight)
        d_middle = _normalise_backward(d_normed, middle, mean, rstd, norm, grads)
        d_middle = _add(grad[rows], d_middle, None, rows)
        d_branch = _times(d_middle, by_row_1, rows).to(dtype)
        grads.add_linear("proj", d_branch, attended[rows], weight_gradient)
        return d_middle.to(x.dtype), input_gradient(d_branch, proj.weight)

    return map_row_chunks(backward, x, len(fc1.weight))


def map_row_chunks(
    function: Callable[[slice], tuple[Tensor, ...]], x: Tensor, width: int
) -> tuple[Tensor, ...]:
    """Results of ``function(rows)`` for all rows of ``x``, each ``(T, ...)``.

    On a CPU it is called with so few rows at a time that ``width`` channels of them stay in the
    cache; elsewhere once.
    """
    total = x.shape[0]
    step = max(1, _CHUNK // width) if x.device.type == "cpu" else total
    if total <= step:
        return function(slice(0, total))
    results: list[Tensor] = []
    for start in range(0, total, step):
        rows = slice(start, start + step)
        parts = function(rows)
        results = results or [part.new_empty(total, *part.shape[1:]) for part in parts]
        for result, part in zip(results, parts, strict=True):
            result[rows] = part
    return tuple(results)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``: ``(T, in)`` and ``(out, in)`` to ``(T, out)``."""
    if use_onednn(x, x.shape[0] * weight.numel()):
        return onednn_linear(x, weight, bias, "none")
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`linear`, then the exact GELU."""
    if use_onednn(x, x.shape[0] * weight.numel()):
        return onednn_linear(x, weight, bias, "gelu")
    hidden = F.linear(x, weight, bias)
    return torch.ops.aten.gelu.out(hidden, out=hidden)


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


def _normalise(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of rows ``(T, C)`` in the norm's precision; mean and 1 / deviation ``(T, 1)``."""
    return torch.native_layer_norm(x.to(norm.weight.dtype), norm.weight.shape, *norm)


def _normalise_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, norm: Norm, grads: ParamGrads
) -> Tensor:
    """Gradient of :func:`_normalise`'s input; adds those of its parameters to ``grads``."""
    weight, bias, _ = norm
    dx, *d_norm = torch.ops.aten.native_layer_norm_backward(
        grad.to(weight.dtype), x.to(weight.dtype), weight.shape, mean, rstd, weight, bias,
        [True, *grads.wants("norm")],
    )  # fmt: skip
    grads.add_norm(*d_norm)
    return dx


def _by_row(scale: Tensor | None, x: Tensor) -> Tensor | None:
    """Factors ``(B,)`` of images for the rows of x, ``(T, 1)``."""
    return None if scale is None else scale.repeat_interleave(len(x) // max(1, len(scale)))[:, None]


def _add(x: Tensor, branch: Tensor, scale: Tensor | None, rows: slice) -> Tensor:
    """``x + scale * branch`` in the precision of ``x + branch``; may write over the branch."""
    if scale is not None:
        return torch.addcmul(x, branch, scale[rows]).to(torch.promote_types(x.dtype, branch.dtype))
    return branch.add_(x) if branch.dtype == x.dtype else x + branch


def _times(grad: Tensor, scale: Tensor | None, rows: slice) -> Tensor:
    return grad if scale is None else grad * scale[rows]
