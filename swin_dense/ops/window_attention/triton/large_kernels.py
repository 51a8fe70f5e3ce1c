"""Triton kernels of the backward pass of attention in windows of more than 64 tokens.

One kernel by blocks of queries (gradients of q), then one by blocks of keys (gradients of k, v and
the position bias), whose rows are keys: so products take weights and their gradients from
registers. What a block is multiplied with is cut into tiles, since a tile's sides are powers of 2
and 144 tokens are better 128 + 16 than 256. The rest is as in :mod:`.kernels`.
"""

# Tuples of tiles grow while a kernel is compiled.
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl

from swin_dense.ops.window_attention.triton.kernels import (
    SIZES,
    exp,
    largest,
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
    bias = ()
    for i in tl.static_range(len(TILES)):
        n_k = tokens(i, TILES)
        bias += (load_bias(position_bias, head, n_q[:, None], n_k[None, :], M, dtype),)
    for EDGE in tl.static_range(1 + (PADDED or SHIFT > 0)):
        begin, end = own_windows(first, step, n_windows, size, M, SHIFT, EDGE)
        for index in range(begin, end, step):
            window = window_at(index, size, M, SHIFT, WIDE, EDGE)
            row_q, on_q, region_q = place(window, n_q, size, M, SHIFT, EDGE)
            q = load(qkv, qkv_bias, column, 3 * c, row_q, on_q, D, EDGE)
            do = load(d_out, None, column, c, row_q, on_q, D, False)
            scores, keys, values = (), (), ()
            for i in tl.static_range(len(TILES)):
                k, v, region = load_keys(
                    qkv, qkv_bias, c, column, window, tokens(i, TILES), size,
                    M, SHIFT, D, EDGE)  # fmt: skip
                s = scores_of(q, k, bias[i], region_q, region, scale, SHIFT * EDGE, PRECISION)
                scores += (s,)
                keys += (k,)
                values += (v,)
            top = largest(scores)
            total = tl.zeros((BLOCK,), tl.float32)
            mean = tl.zeros((BLOCK,), tl.float32)
            weights, d_weights = (), ()
            for i in tl.static_range(len(TILES)):
                p = exp(scores[i] - top[:, None], dtype)
                dp = tl.dot(do, tl.trans(values[i]), input_precision=PRECISION)
                total += tl.sum(p, 1)
                mean += tl.sum(p * dp, 1)
                weights += (p,)
                d_weights += (dp,)
            share = 1.0 / total
            mean *= share
            dq = tl.zeros((BLOCK, D), tl.float32)
            for i in tl.static_range(len(TILES)):
                ds = weights[i] * share[:, None] * (d_weights[i] - mean[:, None])
                dq = tl.dot(ds.to(q.dtype), keys[i], dq, input_precision=PRECISION)
            store(d_qkv, column, 3 * c, row_q, on_q, dq * scale)
            _store_statistics(statistics, window, size, head, heads, n_q, top, share, mean, M)


@triton.jit
def _statistics(pointer, window, size, head, heads, M: tl.constexpr):
    """Where the statistics of a window's head begin: ``(nW, heads, 3, N)`` fp32.

    Of every query the largest score, 1 over the softmax's denominator, and the mean of the
    weights' gradients. The first two are stored apart, as rounding the logarithm of what they
    make together would show in fp32 gradients.
    """
    rows, columns, _, _ = size
    image, row, column = window
    return pointer + (((image * rows + row) * columns + column) * heads + head) * (3 * M * M)


@triton.jit
def _store_statistics(pointer, window, size, head, heads, n_q, top, share, mean, M: tl.constexpr):
    N: tl.constexpr = M * M
    at = _statistics(pointer, window, size, head, heads, M) + n_q
    tl.store(at, top, mask=n_q < N)
    tl.store(at + N, share, mask=n_q < N)
    tl.store(at + 2 * N, mean, mask=n_q < N)


@triton.jit
def _load_statistics(at, n_q, M: tl.constexpr):
    N: tl.constexpr = M * M
    # Beyond the window, exp(score - inf) makes a weight of 0.
    top = tl.load(at + n_q, mask=n_q < N, other=float("inf"))
    share = tl.load(at + N + n_q, mask=n_q < N, other=0.0)
    mean = tl.load(at + 2 * N + n_q, mask=n_q < N, other=0.0)
    return top, share, mean


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
        bias += (load_bias(position_bias, head, n_q[None, :], n_k[:, None], M, dtype),)
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
                top, share, mean = _load_statistics(at, n_q, M)
                s = scores_of(k, q, bias[i], region_k, region_q, scale, SHIFT * EDGE, PRECISION)
                p = exp(s - top[None, :], dtype) * share[None, :]
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
