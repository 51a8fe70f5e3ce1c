"""Triton kernels of LayerNorm and residuals, forward and backward, on rows of C channels.

A program holds whole rows, in a tile whose side is the next power of 2: channels beyond C are
masked, which costs registers but no memory traffic. Everything is computed in fp32. Backward
keeps neither mean nor deviation: it has the row on chip and computes them again.

Nothing is added atomically: what a program sums over its rows (gradients of LayerNorm's weight
and bias, and of the bias of the layer below) it writes to a place of its own, to be summed up
afterwards.
"""

import triton
import triton.language as tl

# Integers that depend on the size of the input: a kernel is not compiled again for their values.
SIZES = ("n_rows", "rows_per_image")


@triton.jit
def block_rows(block, n_rows, ROWS: tl.constexpr):
    """Number of a block's first row, in 64 bits; its rows, and whether each exists.

    Offsets from the first row fit into 32 bits however large the tensor is. Most of them are
    constants, which need no registers.
    """
    row = block * ROWS + tl.arange(0, ROWS)
    return tl.cast(block, tl.int64) * ROWS, row, row < n_rows


@triton.jit
def scaled(tile, scale, rows, rows_per_image):
    """The tile times the factor of each row's image; unchanged where ``scale`` is None."""
    if scale is not None:
        _, row, inside = rows
        factor = tl.load(scale + row // rows_per_image, mask=inside, other=0.0)
        tile = tile * factor[:, None]
    return tile


@triton.jit
def standardise(x, is_channel, eps, C: tl.constexpr):
    """Rows of mean 0 and variance 1, 0 where there is no channel; 1 / deviation of each row."""
    centred = tl.where(is_channel, x - tl.sum(x, 1)[:, None] / C, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / C + eps)
    return centred * rstd[:, None], rstd


@triton.jit
def norm_gradient(d, unit, rstd, C: tl.constexpr):
    """Gradient of a row of mean 0 and variance 1, times the weights, to that of the row itself."""
    d = d - tl.sum(d, 1)[:, None] / C - unit * (tl.sum(d * unit, 1)[:, None] / C)
    return d * rstd[:, None]


@triton.jit(do_not_specialize=SIZES)
def add_layer_norm(
    x, y, scale, weight, bias, m, mn, n_rows, rows_per_image, eps,
    C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``m = x + scale * y`` where y is given, ``mn`` the LayerNorm of that where it is wanted."""
    rows = block_rows(tl.program_id(0), n_rows, ROWS)
    first, _, inside = rows
    column = tl.arange(0, COLUMNS)
    is_channel = (column < C)[None, :]
    at = tl.arange(0, ROWS)[:, None] * C + column[None, :]
    mask = inside[:, None] & is_channel
    value = tl.load(x + first * C + at, mask=mask, other=0.0).to(tl.float32)
    if y is not None:
        branch = tl.load(y + first * C + at, mask=mask, other=0.0).to(tl.float32)
        value += scaled(branch, scale, rows, rows_per_image)
        # Rounded before it is normalised: backward will have this m.
        rounded = value.to(m.dtype.element_ty)
        tl.store(m + first * C + at, rounded, mask=mask)
        value = rounded.to(tl.float32)
    if mn is not None:
        unit, _ = standardise(value, is_channel, eps, C)
        w = tl.load(weight + column, mask=column < C, other=0.0).to(tl.float32)
        b = tl.load(bias + column, mask=column < C, other=0.0).to(tl.float32)
        unit = unit * w[None, :] + b[None, :]
        tl.store(mn + first * C + at, unit.to(mn.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def layer_norm_backward(
    d_xn, x, weight, d_residual, scale, dx, d_branch, d_weight, d_bias, d_branch_bias,
    n_rows, rows_per_image, eps,
    C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of LayerNorm; ``dx`` also has the residual's, and ``d_branch = scale * dx``.

    A program strides over blocks of rows and writes its row of ``d_weight``, ``d_bias`` and, where
    it is wanted, the sum of d_branch: ``(programs, C)`` fp32. ``d_branch`` is None if it is dx.
    """
    column = tl.arange(0, COLUMNS)
    is_channel = (column < C)[None, :]
    at = tl.arange(0, ROWS)[:, None] * C + column[None, :]
    w = tl.load(weight + column, mask=column < C, other=0.0).to(tl.float32)
    sum_weight = tl.zeros((ROWS, COLUMNS), tl.float32)
    sum_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    sum_branch = tl.zeros((ROWS, COLUMNS), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(n_rows, ROWS), tl.num_programs(0)):
        rows = block_rows(block, n_rows, ROWS)
        first, _, inside = rows
        mask = inside[:, None] & is_channel
        value = tl.load(x + first * C + at, mask=mask, other=0.0).to(tl.float32)
        # 0 where there is nothing: adds nothing to any sum.
        d = tl.load(d_xn + first * C + at, mask=mask, other=0.0).to(tl.float32)
        unit, rstd = standardise(value, is_channel, eps, C)
        sum_weight += d * unit
        sum_bias += d
        d = norm_gradient(d * w[None, :], unit, rstd, C)
        if d_residual is not None:
            d += tl.load(d_residual + first * C + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + first * C + at, d.to(dx.dtype.element_ty), mask=mask)
        if d_branch_bias is not None:
            d = scaled(d, scale, rows, rows_per_image)
            sum_branch += d
        if d_branch is not None:
            tl.store(d_branch + first * C + at, d.to(d_branch.dtype.element_ty), mask=mask)
    at = tl.program_id(0) * C + column
    tl.store(d_weight + at, tl.sum(sum_weight, 0), mask=column < C)
    tl.store(d_bias + at, tl.sum(sum_bias, 0), mask=column < C)
    if d_branch_bias is not None:
        tl.store(d_branch_bias + at, tl.sum(sum_branch, 0), mask=column < C)
