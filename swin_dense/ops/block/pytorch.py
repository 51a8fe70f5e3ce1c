"""The end of a block by PyTorch's operators, on a CPU some rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block import matmul as products
from swin_dense.ops.block.layers import BlockEnd, Sums, by_chunks, normalise, normalise_backward


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
    by_row_1, by_row_2 = _by_row(scale_1, x), _by_row(scale_2, x)

    def some(rows: slice) -> tuple[Tensor, ...]:
        branch = products.linear(attended[rows], *projection)
        middle = _add(x[rows], branch, by_row_1, rows)
        normed = normalise(middle, norm)[0].to(attended.dtype)
        if keep:
            hidden = products.linear(normed, *fc1)
            active = F.gelu(hidden)
        else:
            active = products.linear_gelu(normed, *fc1)
        out = _add(middle, products.linear(active, *fc2), by_row_2, rows)
        return (out, hidden) if keep else (out,)

    return by_chunks(some, x, len(fc1.weight))


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
    by_row_1, by_row_2 = _by_row(scale_1, x), _by_row(scale_2, x)

    def some(rows: slice) -> tuple[Tensor, ...]:
        branch = products.linear(attended[rows], *projection)
        middle = _add(x[rows], branch, by_row_1, rows)
        normed, mean, rstd = normalise(middle, norm)
        normed = normed.to(dtype)
        entering = products.linear(normed, *fc1) if hidden is None else hidden[rows]
        d_branch = _times(grad[rows], by_row_2, rows).to(dtype)
        sums.add_linear("fc2", d_branch, F.gelu(entering))
        d_hidden = products.input_gradient(d_branch, fc2.weight)
        torch.ops.aten.gelu_backward.grad_input(d_hidden, entering, grad_input=d_hidden)
        sums.add_linear("fc1", d_hidden, normed)
        d_normed = products.input_gradient(d_hidden, fc1.weight)
        d_middle = normalise_backward(d_normed, middle, mean, rstd, norm, sums)
        d_middle = (
            d_middle.add_(grad[rows]) if d_middle.dtype == grad.dtype else d_middle + grad[rows]
        )
        d_branch = _times(d_middle, by_row_1, rows).to(dtype)
        sums.add_linear("projection", d_branch, attended[rows])
        return d_middle.to(x.dtype), products.input_gradient(d_branch, projection.weight)

    return by_chunks(some, x, len(fc1.weight))


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
