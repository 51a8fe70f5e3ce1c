"""Triton kernels of LayerNorm that also moves what it reads: one pass instead of two or three.

=================  =============================================================================
order              place of channel c of the token in line i, column j of an image
=================  =============================================================================
"rows"             tokens one after the other: ``(B, H, W, C)``
"channels first"   ``(B, C, H, W)``: feature maps as other layers give and take them
"merged"           ``(B, H, W, C / 4)``, of which a token is 2 x 2: patch merging. The neighbours
                   follow each other, upper left and right, lower left and right; 0 beyond the map
=================  =============================================================================

A program holds whole tokens, as in :mod:`.norm_kernels`, of one group: an image, or in patch
merging a line of tokens. So their places are a few steps from the first, without a division each.
"""

import triton
import triton.language as tl

from swin_dense.ops.block.triton.norm_kernels import norm_gradient, standardise

# Integers that depend on the size of the input: tokens of a group, and the size of the map.
MAP_SIZES = ("length", "height", "width", "n_blocks")


@triton.jit
def places(
    group, start, column, length, height, width,
    C: tl.constexpr, ROWS: tl.constexpr, ORDER: tl.constexpr,
):  # fmt: skip
    """Where a block of tokens is: a first place in 64 bits, steps from there, and what exists."""
    row = tl.arange(0, ROWS)[:, None]
    column = column[None, :]
    group = tl.cast(group, tl.int64)
    mask = (start + row < length) & (column < C)
    if ORDER == "rows":
        first = (group * length + start) * C
        at = row * C + column
    elif ORDER == "channels first":
        first = group * length * C + start
        at = row + column * length
    else:
        # Of each line, the neighbours are PAIR channels one after the other.
        PAIR: tl.constexpr = C // 2
        lines = (height + 1) // 2
        line = 2 * (group % lines)
        first = ((group // lines * height + line) * width + 2 * start) * (C // 4)
        lower = column // PAIR
        at = row * PAIR + column % PAIR + lower * (width * (C // 4))
        right = column % PAIR // (C // 4)
        mask &= (line + lower < height) & (2 * (start + row) + right < width)
    return first, at, mask


@triton.jit
def parameter_places(column, C: tl.constexpr, ORDER: tl.constexpr):
    """Places of channels in the norm's parameters, where neighbours of a channel are adjacent."""
    if ORDER == "merged":
        column = column % (C // 4) * 4 + column // (C // 4)
    return column


@triton.jit(do_not_specialize=MAP_SIZES)
def map_norm(
    x, weight, bias, out, length, height, width, n_blocks, eps,
    C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    X_ORDER: tl.constexpr, OUT_ORDER: tl.constexpr,
):  # fmt: skip
    """LayerNorm of a block of tokens of ``x``, written in another order."""
    blocks = tl.cdiv(length, ROWS)
    group = tl.program_id(0) // blocks
    start = tl.program_id(0) % blocks * ROWS
    column = tl.arange(0, COLUMNS)
    first, at, mask = places(group, start, column, length, height, width, C, ROWS, X_ORDER)
    value = tl.load(x + first + at, mask=mask, other=0.0).to(tl.float32)
    unit, _ = standardise(value, (column < C)[None, :], eps, C)
    place = parameter_places(column, C, X_ORDER)
    w = tl.load(weight + place, mask=column < C, other=0.0).to(tl.float32)
    b = tl.load(bias + place, mask=column < C, other=0.0).to(tl.float32)
    unit = unit * w[None, :] + b[None, :]
    first, at, mask = places(group, start, column, length, height, width, C, ROWS, OUT_ORDER)
    tl.store(out + first + at, unit.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=MAP_SIZES)
def map_norm_backward(
    d_out, x, weight, d_residual, dx, d_weight, d_bias, length, height, width, n_blocks, eps,
    C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    X_ORDER: tl.constexpr, OUT_ORDER: tl.constexpr,
):  # fmt: skip
    """Gradients of :func:`map_norm`; ``dx``, in the order of x, also has the residual's.

    A program strides over blocks and writes its row of ``d_weight`` and of ``d_bias``,
    ``(programs, C)`` fp32.
    """
    column = tl.arange(0, COLUMNS)
    place = parameter_places(column, C, X_ORDER)
    w = tl.load(weight + place, mask=column < C, other=0.0).to(tl.float32)
    blocks = tl.cdiv(length, ROWS)
    sum_weight = tl.zeros((ROWS, COLUMNS), tl.float32)
    sum_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for block in range(tl.program_id(0), n_blocks, tl.num_programs(0)):
        group = block // blocks
        start = block % blocks * ROWS
        first, at, mask = places(group, start, column, length, height, width, C, ROWS, OUT_ORDER)
        d = tl.load(d_out + first + at, mask=mask, other=0.0).to(tl.float32)
        first, at, mask = places(group, start, column, length, height, width, C, ROWS, X_ORDER)
        value = tl.load(x + first + at, mask=mask, other=0.0).to(tl.float32)
        unit, rstd = standardise(value, (column < C)[None, :], eps, C)
        sum_weight += d * unit
        sum_bias += d
        d = norm_gradient(d * w[None, :], unit, rstd, C)
        if d_residual is not None:
            d += tl.load(d_residual + first + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + first + at, d.to(dx.dtype.element_ty), mask=mask)
    at = tl.program_id(0) * C + place
    tl.store(d_weight + at, tl.sum(sum_weight, 0), mask=column < C)
    tl.store(d_bias + at, tl.sum(sum_bias, 0), mask=column < C)
