"""Triton kernels of shifted-window attention, forward and backward.

A program owns one head, of D channels, and one block of a window's tokens, and strides over the
windows of all images. Roll, padding, partition and mask are index arithmetic, so q, k and v are
read from the feature map where the linear layer wrote them, and results are written to where they
belong; sizes are run-time arguments. The scores of a query never leave the chip. Backward computes
them again: here for windows of up to 64 tokens, which are one tile; for larger ones in
:mod:`.large_kernels`.

Only windows at the edge of the feature map have padding or a mask. Every kernel has two loops: one
over the inner windows, without either, then one over those at the edge.

Nothing is added atomically: what a program sums over its windows (gradients of the position
bias, and of padded tokens) it writes to a place of its own, to be summed up afterwards.
"""

# Tuples of tiles grow while a kernel is compiled.
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)

# Integers that depend on the size of the input: a kernel is not compiled again for their values.
SIZES = ("n_windows", "rows", "columns", "height", "width", "heads")


@triton.jit
def own_block(heads, BLOCKS: tl.constexpr):
    """Head and block of this program, its first window, and the step to its next.

    Heads vary fastest: programs that run side by side read the same cache lines.
    """
    program = tl.program_id(0)
    first = program // (heads * BLOCKS)
    step = tl.num_programs(0) // (heads * BLOCKS)
    return program % heads, program // heads % BLOCKS, first, step


@triton.jit
def _inner(size, M: tl.constexpr, SHIFT: tl.constexpr):
    """Rows and columns of windows that have no padding and nothing that the shift wraps around."""
    _, _, height, width = size
    return tl.maximum(height - SHIFT, 0) // M, tl.maximum(width - SHIFT, 0) // M


@triton.jit
def own_windows(
    first, step, n_windows, size, M: tl.constexpr, SHIFT: tl.constexpr, EDGE: tl.constexpr
):
    """First and end of this program's indices among inner windows, or among those at the edge.

    Those at the edge come after the inner ones, so that programs have as many windows as before.
    """
    rows, columns, _, _ = size
    inner_rows, inner_columns = _inner(size, M, SHIFT)
    n_inner = n_windows // (rows * columns) * inner_rows * inner_columns
    end = n_inner
    if EDGE:
        first += tl.cdiv(tl.maximum(n_inner - first, 0), step) * step - n_inner
        end = n_windows - n_inner
    return first, end


@triton.jit
def window_at(
    index, size, M: tl.constexpr, SHIFT: tl.constexpr, WIDE: tl.constexpr, EDGE: tl.constexpr
):
    """Image, row and column of a window: those at the edge are the last rows, then columns."""
    rows, columns, _, _ = size
    inner_rows, inner_columns = _inner(size, M, SHIFT)
    # Divisors are at least 1: loads may run ahead of a loop that has no windows.
    if EDGE:
        n = tl.maximum(rows * columns - inner_rows * inner_columns, 1)
        below = (rows - inner_rows) * columns
        is_below = index % n < below
        at = index % n - tl.where(is_below, 0, below)
        width = tl.maximum(tl.where(is_below, columns, columns - inner_columns), 1)
        row = at // width + tl.where(is_below, inner_rows, 0)
        column = at % width + tl.where(is_below, 0, inner_columns)
    else:
        width = tl.maximum(inner_columns, 1)
        n = tl.maximum(inner_rows, 1) * width
        row = index % n // width
        column = index % n % width
    image = index // n
    if WIDE:
        image = image.to(tl.int64)
    return image, row, column


@triton.jit
def place(window, n, size, M: tl.constexpr, SHIFT: tl.constexpr, EDGE: tl.constexpr):
    """Tokens n of a window: row of each in the feature map, whether it is on it, its region.

    A token is off the feature map if it is padding, or beyond the window's M * M.
    """
    rows, columns, height, width = size
    image, window_row, window_column = window
    y = window_row * M + SHIFT + n // M
    x = window_column * M + SHIFT + n % M
    on_map = n < M * M
    region = tl.zeros_like(n)
    if EDGE:
        if SHIFT > 0:
            # What the cyclic shift moves to the opposite end is a region of its own (figure 4).
            # All but the last line depends on n alone: it is computed once, outside of the loop.
            region += (n // M >= M - SHIFT).to(tl.int32) * 2
            region += (n % M >= M - SHIFT).to(tl.int32)
            region &= tl.where(window_row == rows - 1, 2, 0) + (window_column == columns - 1)
            y -= tl.where(region >= 2, rows * M, 0)
            x -= tl.where(region % 2 > 0, columns * M, 0)
        on_map &= (y < height) & (x < width)
    return (image * height + y) * width + x, on_map, region


@triton.jit
def load(qkv, qkv_bias, column, stride, row, on_map, D: tl.constexpr, EDGE: tl.constexpr):
    """Columns ``column + 0..D - 1`` of some rows of qkv; for padding the bias, in qkv's dtype."""
    d = tl.arange(0, D)
    at = row[:, None] * stride + column + d[None, :]
    # By its address: to select among loaded values, a tile would have to pass through registers.
    if EDGE and qkv_bias is not None:
        tile = tl.load(tl.where(on_map[:, None], qkv + at, qkv_bias + column + d[None, :]))
    else:
        tile = tl.load(qkv + at, mask=on_map[:, None], other=0.0)
    return tile


@triton.jit
def load_keys(
    qkv, qkv_bias, c, column, window, n, size,
    M: tl.constexpr, SHIFT: tl.constexpr, D: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Keys, values and regions of tokens n of a window."""
    row, on_map, region = place(window, n, size, M, SHIFT, EDGE)
    k = load(qkv, qkv_bias, c + column, 3 * c, row, on_map, D, EDGE)
    v = load(qkv, qkv_bias, 2 * c + column, 3 * c, row, on_map, D, EDGE)
    return k, v, region


@triton.jit
def store(pointer, column, stride, row, on_map, tile):
    """Write a tile to columns ``column + 0..D - 1`` of the rows that are not padding."""
    d = tl.arange(0, tile.shape[1])
    at = row[:, None] * stride + column + d[None, :]
    tl.store(pointer + at, tile.to(pointer.dtype.element_ty), mask=on_map[:, None])


@triton.jit
def exponent(x, dtype: tl.constexpr):
    """x in the unit of what :func:`exp` takes: in 16 bit, log2 e times x."""
    return x if dtype == tl.float32 else x * _LOG2_E


@triton.jit
def exp(x, dtype: tl.constexpr):
    """e^x of scores in that unit: 2^x is one instruction instead of five, but less exact."""
    return tl.exp(x) if dtype == tl.float32 else tl.exp2(x)


@triton.jit
def load_bias(position_bias, head, q, k, M: tl.constexpr):
    """What is added to scores of queries q against keys k, in fp32: -inf for keys off the window.

    Of q and k, one is a column and one a row.
    """
    N: tl.constexpr = M * M
    if position_bias is None:
        bias = tl.where(k < N, 0.0, float("-inf"))
    else:
        at = (head * N + q) * N + k
        bias = tl.load(position_bias + at, mask=(q < N) & (k < N), other=0.0)
        bias = tl.where(k < N, bias.to(tl.float32), float("-inf"))
    return bias


@triton.jit
def tokens(i: tl.constexpr, TILES: tl.constexpr):
    """Tokens of a tile: all tiles but the last have the first's number."""
    return i * TILES[0] + tl.arange(0, TILES[i])


@triton.jit
def largest(scores):
    """Largest score of every query."""
    top = tl.max(scores[0], 1)
    for i in tl.static_range(1, len(scores)):
        top = tl.maximum(top, tl.max(scores[i], 1))
    return top


@triton.jit
def scores_of(
    x, y, bias, region_x, region_y, scale, SHIFT: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Scores of queries against keys, or the reverse, in fp32: product, bias, mask."""
    scores = tl.dot(x, tl.trans(y), input_precision=PRECISION)
    scores = scores * scale + bias
    if SHIFT > 0:
        scores = tl.where(region_x[:, None] == region_y[None, :], scores, scores - 100.0)
    return scores


@triton.jit
def store_pairs(pointer, group, head, heads, q, k, tile, M: tl.constexpr):
    """Write a program's sum over windows for pairs of tokens, ``(groups, heads, N, N)``."""
    N: tl.constexpr = M * M
    at = ((group * heads + head).to(tl.int64) * N + q) * N + k
    tl.store(pointer + at, tile, mask=(q < N) & (k < N))


@triton.jit
def store_padding(pointer, at, head, heads, dk, dv):
    """Write a program's sums over padded tokens, to ``(..., 2, heads, D)``."""
    D: tl.constexpr = dk.shape[0]
    d = tl.arange(0, D)
    tl.store(pointer + (2 * at * heads + head) * D + d, dk)
    tl.store(pointer + ((2 * at + 1) * heads + head) * D + d, dv)


@triton.jit(do_not_specialize=SIZES)
def forward(
    qkv, qkv_bias, position_bias, out,
    n_windows, rows, columns, height, width, heads, scale,
    M: tl.constexpr, SHIFT: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr, D: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Out of a block of queries, ``(B, H, W, C)``; a row of their keys is cut into tiles."""
    BLOCKS: tl.constexpr = (M * M + BLOCK - 1) // BLOCK
    head, block, first, step = own_block(heads, BLOCKS)
    size = (rows, columns, height, width)
    c, column = heads * D, head * D
    dtype: tl.constexpr = qkv.dtype.element_ty
    n_q = block * BLOCK + tl.arange(0, BLOCK)
    bias = ()
    for i in tl.static_range(len(TILES)):
        n_k = tokens(i, TILES)
        bias += (load_bias(position_bias, head, n_q[:, None], n_k[None, :], M),)
    for EDGE in tl.static_range(1 + (PADDED or SHIFT > 0)):
        begin, end = own_windows(first, step, n_windows, size, M, SHIFT, EDGE)
        for index in range(begin, end, step):
            window = window_at(index, size, M, SHIFT, WIDE, EDGE)
            row_q, on_q, region_q = place(window, n_q, size, M, SHIFT, EDGE)
            q = load(qkv, qkv_bias, column, 3 * c, row_q, on_q, D, EDGE)
            scores, values = (), ()
            for i in tl.static_range(len(TILES)):
                k, v, region = load_keys(
                    qkv, qkv_bias, c, column, window, tokens(i, TILES), size,
                    M, SHIFT, D, EDGE)  # fmt: skip
                s = scores_of(q, k, bias[i], region_q, region, scale, SHIFT * EDGE, PRECISION)
                scores += (s,)
                values += (v,)
            top = exponent(largest(scores), dtype)
            o = tl.zeros((BLOCK, D), tl.float32)
            total = tl.zeros((BLOCK,), tl.float32)
            for i in tl.static_range(len(TILES)):
                p = exp(exponent(scores[i], dtype) - top[:, None], dtype)
                total += tl.sum(p, 1)
                o = tl.dot(p.to(q.dtype), values[i], o, input_precision=PRECISION)
            store(out, column, c, row_q, on_q, o * (1.0 / total)[:, None])


@triton.jit(do_not_specialize=SIZES)
def backward(
    qkv, qkv_bias, position_bias, d_out, d_qkv, d_position_bias, d_padding,
    n_windows, rows, columns, height, width, heads, scale,
    M: tl.constexpr, SHIFT: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr, D: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All gradients of windows that fit into one tile, M * M <= BLOCK."""
    head, _, first, step = own_block(heads, 1)
    size = (rows, columns, height, width)
    c, column = heads * D, head * D
    dtype: tl.constexpr = qkv.dtype.element_ty
    n = tl.arange(0, BLOCK)
    bias = load_bias(position_bias, head, n[:, None], n[None, :], M)
    pairs = tl.zeros((BLOCK, BLOCK), tl.float32)
    padded_k = tl.zeros((D,), tl.float32)
    padded_v = tl.zeros((D,), tl.float32)
    for EDGE in tl.static_range(1 + (PADDED or SHIFT > 0)):
        begin, end = own_windows(first, step, n_windows, size, M, SHIFT, EDGE)
        for index in range(begin, end, step):
            window = window_at(index, size, M, SHIFT, WIDE, EDGE)
            row, on_map, region = place(window, n, size, M, SHIFT, EDGE)
            q = load(qkv, qkv_bias, column, 3 * c, row, on_map, D, EDGE)
            k = load(qkv, qkv_bias, c + column, 3 * c, row, on_map, D, EDGE)
            v = load(qkv, qkv_bias, 2 * c + column, 3 * c, row, on_map, D, EDGE)
            # 0 off the map: such queries send no gradient to anything.
            do = load(d_out, None, column, c, row, on_map, D, False)
            s = scores_of(q, k, bias, region, region, scale, SHIFT * EDGE, PRECISION)
            top = exponent(tl.max(s, 1), dtype)
            p = exp(exponent(s, dtype) - top[:, None], dtype)
            p = p * (1.0 / tl.sum(p, 1))[:, None]
            dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
            ds = p * (dp - tl.sum(p * dp, 1)[:, None])
            if d_position_bias is not None:
                pairs += ds
            ds = ds.to(q.dtype)
            dq = tl.dot(ds, k, input_precision=PRECISION) * scale
            dk = tl.dot(tl.trans(ds), q, input_precision=PRECISION) * scale
            dv = tl.dot(tl.trans(p.to(q.dtype)), do, input_precision=PRECISION)
            store(d_qkv, column, 3 * c, row, on_map, dq)
            store(d_qkv, c + column, 3 * c, row, on_map, dk)
            store(d_qkv, 2 * c + column, 3 * c, row, on_map, dv)
            if EDGE and d_padding is not None:
                padded = ((n < M * M) & (on_map == 0))[:, None]
                padded_k += tl.sum(tl.where(padded, dk, 0.0), 0)
                padded_v += tl.sum(tl.where(padded, dv, 0.0), 0)
    if d_position_bias is not None:
        store_pairs(d_position_bias, first, head, heads, n[:, None], n[None, :], pairs, M)
    if d_padding is not None:
        store_padding(d_padding, first, head, heads, padded_k, padded_v)
