"""Triton kernels of the backward pass of attention in windows of more than 64 tokens.

One kernel by blocks of queries (gradients of q), then one by blocks of keys (gradients of k, v and
the position bias), whose rows are keys: so products take weights and their gradients from
registers. What a block is multiplied with is cut into tiles, since a tile's sides are powers of 2
and 144 tokens are better 128 + 16 than 256. The rest is as in :mod:`.kernels`.
"""

# Tuples of tiles grow while a kernel is compiled.
# mypy: disable-error-code="assignment,var-annotated"

import triton
import triton.language as tl

from swin_dense.ops.window_attention.triton.kernels import (
    SIZES,
    exp,
    exponent,
    load,
    load_bias,
    load_keys,
    own_block,
    own_windows,
    place,
    scores_of,
    store,
    store_padding,
    store_pairs,
    tokens,
    window_at,
)

# Weights that registers hold, with their gradients and the position bias.
_KEPT = tl.constexpr(64 * 144)


@triton.jit(do_not_specialize=SIZES)
def backward_queries(
    qkv, qkv_bias, position_bias, d_out, d_qkv, statistics,
    n_windows, rows, columns, height, width, heads, scale,
    M: tl.constexpr, SHIFT: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr, D: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of queries; stores what the kernel for keys needs of them."""
    BLOCKS: tl.constexpr = (M * M + BLOCK - 1) // BLOCK
    head, block, first, step = own_block(heads, BLOCKS)
    size = (rows, columns, height, width)
    c, column = heads * D, head * D
    dtype: tl.constexpr = qkv.dtype.element_ty
    n_q = block * BLOCK + tl.arange(0, BLOCK)
    # More than these are not kept, but computed again once the softmax's denominator is known.
    AGAIN: tl.constexpr = BLOCK * M * M > _KEPT
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
            do = load(d_out, None, column, c, row_q, on_q, D, False)
            top = tl.full((BLOCK,), float("-inf"), tl.float32)
            total, mean = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
            loaded, kept = (), ()
            for i in tl.static_range(len(TILES)):
                k, v, region = load_keys(
                    qkv, qkv_bias, c, column, window, tokens(i, TILES), size,
                    M, SHIFT, D, EDGE)  # fmt: skip
                s = scores_of(q, k, bias[i], region_q, region, scale, SHIFT * EDGE, PRECISION)
                dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
                p, top, total, mean = _sum_up(s, dp, top, total, mean, dtype)
                loaded += ((k, v, region),)
                kept += ((p, dp, top),)
            mean /= total
            at = _statistics(statistics, window, size, head, heads, M)
            _store_statistics(at, n_q, top, total, mean, M, dtype)
            if AGAIN:
                # From what is loaded again, or the compiler would keep the products in registers.
                q = load(qkv, qkv_bias, column, 3 * c, row_q, on_q, D, EDGE)
                do = load(d_out, None, column, c, row_q, on_q, D, False)
            dq = tl.zeros((BLOCK, D), tl.float32)
            for i in tl.static_range(len(TILES)):
                k, v, region = loaded[i]
                p, dp, before = kept[i]
                if AGAIN:
                    s = scores_of(q, k, bias[i], region_q, region, scale, SHIFT * EDGE, PRECISION)
                    dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
                    p = exp(exponent(s, dtype) - top[:, None], dtype)
                    before = top
                share = exp(before - top, dtype) / total
                ds = p * (dp * share[:, None] - (mean * share)[:, None])
                dq = tl.dot(ds.to(dtype), k, dq, input_precision=PRECISION)
            store(d_qkv, column, 3 * c, row_q, on_q, dq * scale)


@triton.jit
def _sum_up(s, dp, top, total, mean, dtype: tl.constexpr):
    """Weights of a tile, e to the scores less their largest so far; that, and sums over all tiles.

    The sums are of the weights, and of their products with their gradients.
    """
    before, top = top, tl.maximum(top, exponent(tl.max(s, 1), dtype))
    p = exp(exponent(s, dtype) - top[:, None], dtype)
    rest = exp(before - top, dtype)
    return p, top, total * rest + tl.sum(p, 1), mean * rest + tl.sum(p * dp, 1)


@triton.jit
def _statistics(pointer, window, size, head, heads, M: tl.constexpr):
    """Where the statistics of a window's head begin: ``(nW, heads, 3, N)`` fp32.

    Of every query the logarithm of the softmax's denominator, and the mean of the weights'
    gradients. In fp32, where rounding the logarithm would show in gradients, the largest score
    stands in its place, and the third is 1 over the rest of the denominator.
    """
    rows, columns, _, _ = size
    image, row, column = window
    return pointer + (((image * rows + row) * columns + column) * heads + head) * (3 * M * M)


@triton.jit
def _store_statistics(at, n_q, top, total, mean, M: tl.constexpr, dtype: tl.constexpr):
    N: tl.constexpr = M * M
    if dtype == tl.float32:
        tl.store(at + 2 * N + n_q, 1.0 / total, mask=n_q < N)
    else:
        top += tl.log2(total)
    tl.store(at + n_q, top, mask=n_q < N)
    tl.store(at + N + n_q, mean, mask=n_q < N)


@triton.jit
def _load_statistics(at, n_q, M: tl.constexpr, dtype: tl.constexpr):
    N: tl.constexpr = M * M
    # Beyond the window, exp(score - inf) makes a weight of 0.
    top = tl.load(at + n_q, mask=n_q < N, other=float("inf"))
    mean = tl.load(at + N + n_q, mask=n_q < N, other=0.0)
    if dtype == tl.float32:
        share = tl.load(at + 2 * N + n_q, mask=n_q < N, other=0.0)
    else:
        share = tl.full(n_q.shape, 1.0, tl.float32)
    return top, mean, share


@triton.jit(do_not_specialize=SIZES)
def backward_keys(
    qkv, qkv_bias, position_bias, d_out, d_qkv, statistics, d_position_bias, d_padding,
    n_windows, rows, columns, height, width, heads, scale,
    M: tl.constexpr, SHIFT: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr, D: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and values, and of their position bias."""
    BLOCKS: tl.constexpr = (M * M + BLOCK - 1) // BLOCK
    head, block, first, step = own_block(heads, BLOCKS)
    size = (rows, columns, height, width)
    c, column = heads * D, head * D
    dtype: tl.constexpr = qkv.dtype.element_ty
    n_k = block * BLOCK + tl.arange(0, BLOCK)
    bias, pairs = (), ()
    for i in tl.static_range(len(TILES)):
        n_q = tokens(i, TILES)
        bias += (load_bias(position_bias, head, n_q[None, :], n_k[:, None], M),)
        if d_position_bias is not None:
            pairs += (tl.zeros_like(bias[i]),)
    padded_k = tl.zeros((D,), tl.float32)
    padded_v = tl.zeros((D,), tl.float32)
    for EDGE in tl.static_range(1 + (PADDED or SHIFT > 0)):
        begin, end = own_windows(first, step, n_windows, size, M, SHIFT, EDGE)
        for index in range(begin, end, step):
            window = window_at(index, size, M, SHIFT, WIDE, EDGE)
            row_k, on_k, region_k = place(window, n_k, size, M, SHIFT, EDGE)
            k = load(qkv, qkv_bias, c + column, 3 * c, row_k, on_k, D, EDGE)
            v = load(qkv, qkv_bias, 2 * c + column, 3 * c, row_k, on_k, D, EDGE)
            at = _statistics(statistics, window, size, head, heads, M)
            dk = tl.zeros((BLOCK, D), tl.float32)
            dv = tl.zeros((BLOCK, D), tl.float32)
            sums = ()
            for i in tl.static_range(len(TILES)):
                n_q = tokens(i, TILES)
                row_q, on_q, region_q = place(window, n_q, size, M, SHIFT, EDGE)
                q = load(qkv, qkv_bias, column, 3 * c, row_q, on_q, D, EDGE)
                do = load(d_out, None, column, c, row_q, on_q, D, False)
                top, mean, share = _load_statistics(at, n_q, M, dtype)
                s = scores_of(k, q, bias[i], region_k, region_q, scale, SHIFT * EDGE, PRECISION)
                p = exp(exponent(s, dtype) - top[None, :], dtype) * share[None, :]
                dp = tl.dot(v, tl.trans(do), input_precision=PRECISION)
                ds = p * (dp - mean[None, :])
                dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
                dv = tl.dot(p.to(q.dtype), do, dv, input_precision=PRECISION)
                if d_position_bias is not None:
                    sums += (pairs[i] + ds,)
            pairs = sums
            dk = dk * scale
            store(d_qkv, c + column, 3 * c, row_k, on_k, dk)
            store(d_qkv, 2 * c + column, 3 * c, row_k, on_k, dv)
            if EDGE and d_padding is not None:
                padded = ((n_k < M * M) & (on_k == 0))[:, None]
                padded_k += tl.sum(tl.where(padded, dk, 0.0), 0)
                padded_v += tl.sum(tl.where(padded, dv, 0.0), 0)
    if d_position_bias is not None:
        for i in tl.static_range(len(TILES)):
            q, k = tokens(i, TILES)[None, :], n_k[:, None]
            store_pairs(d_position_bias, first, head, heads, q, k, pairs[i], M)
    if d_padding is not None:
        store_padding(d_padding, first * BLOCKS + block, head, heads, padded_k, padded_v)
