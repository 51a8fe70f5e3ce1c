"""Triton kernels of matrix products: linear layers with LayerNorm or a residual, and the whole MLP.

A program owns a block of rows, holds the whole of them, and goes over the features or the hidden
units by chunks, so that hidden activations never leave the chip forward. Backward of the MLP
computes them again and writes what the weights' gradients, plain matrix products, need.

A row of C channels is two tiles, C_1 + C_2: a tile's sides are powers of 2, and 96 channels are
better 64 + 32 than 128. A power of 2 is halved, as tiles are worked on one after the other and
half a row needs half the registers. A ``block`` is what ``block_rows`` returns.
"""

import triton
import triton.language as tl

from swin_dense.ops.block.triton.gelu_kernels import gelu_derivative, gelu_of, normal_cdf
from swin_dense.ops.block.triton.norm_kernels import SIZES, block_rows, scaled


@triton.jit
def load(pointer, block, column, C: tl.constexpr, WIDTH: tl.constexpr):
    """``WIDTH`` channels of a block's rows from a column on, 0 for rows that do not exist."""
    first, _, inside = block
    at = tl.arange(0, inside.shape[0])[:, None] * C + column + tl.arange(0, WIDTH)[None, :]
    return tl.load(pointer + first * C + at, mask=inside[:, None], other=0.0)


@triton.jit
def store(pointer, block, column, tile, C: tl.constexpr, WIDTH: tl.constexpr):
    """Write what :func:`load` reads."""
    first, _, inside = block
    at = tl.arange(0, inside.shape[0])[:, None] * C + column + tl.arange(0, WIDTH)[None, :]
    tl.store(pointer + first * C + at, tile.to(pointer.dtype.element_ty), mask=inside[:, None])


@triton.jit
def vector(pointer, column, WIDTH: tl.constexpr):
    """``WIDTH`` numbers of a parameter, as a row in fp32."""
    return tl.load(pointer + column + tl.arange(0, WIDTH)).to(tl.float32)[None, :]


@triton.jit
def moments(x_1, x_2, eps, C: tl.constexpr):
    """Mean of each row that two tiles hold, and 1 / its deviation."""
    mean = (tl.sum(x_1, 1) + tl.sum(x_2, 1)) / C
    x_1 -= mean[:, None]
    x_2 -= mean[:, None]
    return mean, tl.rsqrt((tl.sum(x_1 * x_1, 1) + tl.sum(x_2 * x_2, 1)) / C + eps)


@triton.jit
def normalised(
    x, mean, rstd, weight, bias, column, WIDTH: tl.constexpr, dtype: tl.constexpr
):  # fmt: skip
    """LayerNorm of a tile of columns, in ``dtype``."""
    unit = (x - mean[:, None]) * rstd[:, None]
    return (unit * vector(weight, column, WIDTH) + vector(bias, column, WIDTH)).to(dtype)


@triton.jit
def add_store(
    x, tile, out, block, column, C: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Write ``x + tile`` for a tile of columns."""
    tile += load(x, block, column, C, WIDTH).to(tl.float32)
    store(out, block, column, tile, C, WIDTH)


@triton.jit
def load_features(w, first, column, C: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """Some rows of a weight ``(features, C)``, ``(CHUNK, WIDTH)`` from a column on."""
    feature = (first + tl.arange(0, CHUNK))[:, None]
    return tl.load(w + feature * C + column + tl.arange(0, WIDTH)[None, :])


@triton.jit(do_not_specialize=SIZES)
def linear(
    a, norm_weight, norm_bias, w, b, x, scale, out, g, n_rows, rows_per_image, eps,
    C_1: tl.constexpr, C_2: tl.constexpr, FEATURES: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out = x + scale * (norm(a) @ w.T + b)``; norm, b, x and scale may each be None.

    Where g is given it is ``gelu(out)``, and out itself may be None.
    """
    C: tl.constexpr = C_1 + C_2
    block = block_rows(tl.program_id(0), n_rows, ROWS)
    a_1 = load(a, block, 0, C, C_1)
    a_2 = load(a, block, C_1, C, C_2)
    if norm_weight is not None:
        dtype = w.dtype.element_ty
        a_1 = a_1.to(tl.float32)
        a_2 = a_2.to(tl.float32)
        mean, rstd = moments(a_1, a_2, eps, C)
        a_1 = normalised(a_1, mean, rstd, norm_weight, norm_bias, 0, C_1, dtype)
        a_2 = normalised(a_2, mean, rstd, norm_weight, norm_bias, C_1, C_2, dtype)
    for first in range(0, FEATURES, CHUNK):
        w_1 = load_features(w, first, 0, C, CHUNK, C_1)
        w_2 = load_features(w, first, C_1, C, CHUNK, C_2)
        y = tl.dot(a_1, tl.trans(w_1), input_precision=PRECISION)
        y = tl.dot(a_2, tl.trans(w_2), y, input_precision=PRECISION)
        if b is not None:
            y += vector(b, first, CHUNK)
        if x is not None:
            y = scaled(y, scale, block, rows_per_image)
            y += load(x, block, first, FEATURES, CHUNK).to(tl.float32)
        if g is not None:
            # Rounded before it is activated: backward will have this result.
            y = y.to(g.dtype.element_ty).to(tl.float32)
            store(g, block, first, gelu_of(y, g.dtype.element_ty), FEATURES, CHUNK)
        if out is not None:
            store(out, block, first, y, FEATURES, CHUNK)


@triton.jit
def _load_w2(w2, first, column, HIDDEN: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """Some columns of the weight ``(C, HIDDEN)``, ``(WIDTH, CHUNK)`` from a row on."""
    channel = (column + tl.arange(0, WIDTH))[:, None]
    return tl.load(w2 + channel * HIDDEN + first + tl.arange(0, CHUNK)[None, :])


@triton.jit(do_not_specialize=SIZES)
def residual_linear(
    a, w, b, x, scale, out, n_rows, rows_per_image,
    C_1: tl.constexpr, C_2: tl.constexpr, PARTS: tl.constexpr, HIDDEN: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out = x + scale * (a @ w.T + b)`` from more channels than a program can hold.

    The C_1 + C_2 columns that a program owns are one of PARTS. Programs with the same rows follow
    each other, so that these are read from memory once.
    """
    C: tl.constexpr = (C_1 + C_2) * PARTS
    column = tl.program_id(0) % PARTS * (C_1 + C_2)
    block = block_rows(tl.program_id(0) // PARTS, n_rows, ROWS)
    sum_1 = tl.zeros((ROWS, C_1), tl.float32)
    sum_2 = tl.zeros((ROWS, C_2), tl.float32)
    for first in range(0, HIDDEN, CHUNK):
        tile = load(a, block, first, HIDDEN, CHUNK)
        w_1 = _load_w2(w, first, column, HIDDEN, CHUNK, C_1)
        w_2 = _load_w2(w, first, column + C_1, HIDDEN, CHUNK, C_2)
        sum_1 = tl.dot(tile, tl.trans(w_1), sum_1, input_precision=PRECISION)
        sum_2 = tl.dot(tile, tl.trans(w_2), sum_2, input_precision=PRECISION)
    if b is not None:
        sum_1 += vector(b, column, C_1)
        sum_2 += vector(b, column + C_1, C_2)
    add_store(x, scaled(sum_1, scale, block, rows_per_image), out, block, column, C, C_1)
    add_store(x, scaled(sum_2, scale, block, rows_per_image), out, block, column + C_1, C, C_2)


@triton.jit(do_not_specialize=SIZES)
def mlp(
    m, scale, norm_weight, norm_bias, w1, b1, w2, b2, out, n_rows, rows_per_image, eps,
    C_1: tl.constexpr, C_2: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out = m + scale * fc2(gelu(fc1(norm(m))))`` of a block of rows."""
    C: tl.constexpr = C_1 + C_2
    dtype = w1.dtype.element_ty
    block = block_rows(tl.program_id(0), n_rows, ROWS)
    m_1 = load(m, block, 0, C, C_1).to(tl.float32)
    m_2 = load(m, block, C_1, C, C_2).to(tl.float32)
    mean, rstd = moments(m_1, m_2, eps, C)
    n_1 = normalised(m_1, mean, rstd, norm_weight, norm_bias, 0, C_1, dtype)
    n_2 = normalised(m_2, mean, rstd, norm_weight, norm_bias, C_1, C_2, dtype)
    sum_1 = tl.zeros((ROWS, C_1), tl.float32)
    sum_2 = tl.zeros((ROWS, C_2), tl.float32)
    for first in range(0, HIDDEN, CHUNK):
        w1_1 = load_features(w1, first, 0, C, CHUNK, C_1)
        w1_2 = load_features(w1, first, C_1, C, CHUNK, C_2)
        # What products are added to: it is loaded into registers, not by asynchronous copies.
        h = tl.broadcast_to(vector(b1, first, CHUNK), (ROWS, CHUNK))
        h = tl.dot(n_1, tl.trans(w1_1), h, input_precision=PRECISION)
        h = tl.dot(n_2, tl.trans(w1_2), h, input_precision=PRECISION)
        g = gelu_of(h, dtype).to(dtype)
        w2_1 = _load_w2(w2, first, 0, HIDDEN, CHUNK, C_1)
        w2_2 = _load_w2(w2, first, C_1, HIDDEN, CHUNK, C_2)
        sum_1 = tl.dot(g, tl.trans(w2_1), sum_1, input_precision=PRECISION)
        sum_2 = tl.dot(g, tl.trans(w2_2), sum_2, input_precision=PRECISION)
    sum_1 = scaled(sum_1 + vector(b2, 0, C_1), scale, block, rows_per_image)
    sum_2 = scaled(sum_2 + vector(b2, C_1, C_2), scale, block, rows_per_image)
    add_store(m, sum_1, out, block, 0, C, C_1)
    add_store(m, sum_2, out, block, C_1, C, C_2)


@triton.jit
def _store_sum(sums, number, tile, column, C: tl.constexpr, WIDTH: tl.constexpr):
    """Write the sum over rows of a tile of columns, the program's part of ``sums[number]``.

    In 16 bits by tensor cores, as a product with a row of ones and 15 of zeros, summed in fp32:
    it costs a third of adding up what the lanes of a warp and the warps hold.
    """
    if tile.dtype == tl.float32:
        total = tl.sum(tile, 0)
    else:
        is_one = (tl.arange(0, 16)[:, None] + tl.zeros((1, tile.shape[0]), tl.int32)) == 0
        total = tl.sum(tl.dot(is_one.to(tile.dtype), tile), 0)
    at = (number * tl.num_programs(0) + tl.program_id(0)) * C + column + tl.arange(0, WIDTH)
    tl.store(sums + at, total)


@triton.jit
def _branch_gradient(
    dy, scale, d2, sums, number, block, rows_per_image, column,
    C: tl.constexpr, WIDTH: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """``scale * dy`` in ``dtype`` for a tile of columns; written where it is wanted."""
    d = load(dy, block, column, C, WIDTH).to(tl.float32)
    d = scaled(d, scale, block, rows_per_image)
    _store_sum(sums, number, d, column, C, WIDTH)
    d = d.to(dtype)
    if d2 is not None:
        store(d2, block, column, d, C, WIDTH)
    return d


@triton.jit
def _unit(m, mean, rstd, block, column, C: tl.constexpr, WIDTH: tl.constexpr):
    """Some columns of rows brought to mean 0 and variance 1."""
    tile = load(m, block, column, C, WIDTH).to(tl.float32)
    return (tile - mean[:, None]) * rstd[:, None]


@triton.jit
def _norm_sums(
    m, dn, mean, rstd, weight, sums, block, column, C: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """What a tile of columns adds to the sums that the norm's gradients need.

    Over rows, the program's part of the gradients of weight and bias, it is written; over
    columns, of the gradient of the standardised rows and of its product with them, returned.
    """
    unit = _unit(m, mean, rstd, block, column, C, WIDTH)
    _store_sum(sums, 0, dn * unit, column, C, WIDTH)
    _store_sum(sums, 1, dn, column, C, WIDTH)
    d = dn * vector(weight, column, WIDTH)
    return tl.sum(d, 1), tl.sum(d * unit, 1)


@triton.jit
def _store_norm_gradient(
    m, dy, dn, means, weight, dm, block, column, C: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Gradient of a tile of columns of the norm's input, with the residual's: written, returned."""
    mean, rstd, mean_d, mean_product = means
    unit = _unit(m, mean, rstd, block, column, C, WIDTH)
    d = dn * vector(weight, column, WIDTH) - mean_d[:, None] - unit * mean_product[:, None]
    d = d * rstd[:, None]
    if dy is not None:
        d += load(dy, block, column, C, WIDTH).to(tl.float32)
    store(dm, block, column, d, C, WIDTH)
    return d


@triton.jit
def _store_branch_gradient(
    d, scale, d_branch, sums, block, rows_per_image, column, C: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """What the branch below receives of a tile of columns."""
    d = scaled(d, scale, block, rows_per_image)
    _store_sum(sums, 3, d, column, C, WIDTH)
    if d_branch is not None:
        store(d_branch, block, column, d, C, WIDTH)


@triton.jit(do_not_specialize=SIZES)
def mlp_backward(
    m, dy, scale, norm_weight, norm_bias, w1, b1, w2, branch_scale,
    dm, mn, g, dh, d2, d_branch, sums, hidden_sums, n_rows, rows_per_image, eps,
    C_1: tl.constexpr, C_2: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of rows, and what the gradients of parameters need of them.

    That is the norm's output ``mn``, the activations ``g``, gradients ``dh`` of what enters GELU,
    ``d2`` of what leaves the last layer (None if that is dy itself) and ``d_branch`` of what was
    added to make m (None if that is dm). A program writes its rows of ``sums``, (4, programs, C)
    in fp32: gradients of the norm's weight and bias, sums of d2 and d_branch; and its row of
    ``hidden_sums``, (programs, HIDDEN), of dh.
    """
    C: tl.constexpr = C_1 + C_2
    dtype = w1.dtype.element_ty
    block = block_rows(tl.program_id(0), n_rows, ROWS)
    m_1 = load(m, block, 0, C, C_1).to(tl.float32)
    m_2 = load(m, block, C_1, C, C_2).to(tl.float32)
    mean, rstd = moments(m_1, m_2, eps, C)
    n_1 = normalised(m_1, mean, rstd, norm_weight, norm_bias, 0, C_1, dtype)
    n_2 = normalised(m_2, mean, rstd, norm_weight, norm_bias, C_1, C_2, dtype)
    store(mn, block, 0, n_1, C, C_1)
    store(mn, block, C_1, n_2, C, C_2)
    d_1 = _branch_gradient(dy, scale, d2, sums, 2, block, rows_per_image, 0, C, C_1, dtype)
    d_2 = _branch_gradient(dy, scale, d2, sums, 2, block, rows_per_image, C_1, C, C_2, dtype)
    dn_1 = tl.zeros((ROWS, C_1), tl.float32)
    dn_2 = tl.zeros((ROWS, C_2), tl.float32)
    for first in range(0, HIDDEN, CHUNK):
        w1_1 = load_features(w1, first, 0, C, CHUNK, C_1)
        w1_2 = load_features(w1, first, C_1, C, CHUNK, C_2)
        w2_1 = _load_w2(w2, first, 0, HIDDEN, CHUNK, C_1)
        w2_2 = _load_w2(w2, first, C_1, HIDDEN, CHUNK, C_2)
        h = tl.broadcast_to(vector(b1, first, CHUNK), (ROWS, CHUNK))
        h = tl.dot(n_1, tl.trans(w1_1), h, input_precision=PRECISION)
        d = tl.dot(d_1, w2_1, input_precision=PRECISION)
        h = tl.dot(n_2, tl.trans(w1_2), h, input_precision=PRECISION)
        d = tl.dot(d_2, w2_2, d, input_precision=PRECISION)
        cdf = normal_cdf(h, dtype)
        store(g, block, first, h * cdf, HIDDEN, CHUNK)
        d = (d * gelu_derivative(h, cdf)).to(dtype)
        _store_sum(hidden_sums, 0, d, first, HIDDEN, CHUNK)
        store(dh, block, first, d, HIDDEN, CHUNK)
        dn_1 = tl.dot(d, w1_1, dn_1, input_precision=PRECISION)
        dn_2 = tl.dot(d, w1_2, dn_2, input_precision=PRECISION)
    # Rows of m are read again, tile by tile: registers are better spent on the sums.
    mean_d, mean_product = _norm_sums(m, dn_1, mean, rstd, norm_weight, sums, block, 0, C, C_1)
    more, more_product = _norm_sums(m, dn_2, mean, rstd, norm_weight, sums, block, C_1, C, C_2)
    means = (mean, rstd, (mean_d + more) / C, (mean_product + more_product) / C)
    d = _store_norm_gradient(m, dy, dn_1, means, norm_weight, dm, block, 0, C, C_1)
    _store_branch_gradient(d, branch_scale, d_branch, sums, block, rows_per_image, 0, C, C_1)
    d = _store_norm_gradient(m, dy, dn_2, means, norm_weight, dm, block, C_1, C, C_2)
    _store_branch_gradient(d, branch_scale, d_branch, sums, block, rows_per_image, C_1, C, C_2)


@triton.jit(do_not_specialize=SIZES)
def gelu_linear_backward(
    dy, scale, w, h, g, dh, d, sums, hidden_sums, n_rows, rows_per_image,
    C_1: tl.constexpr, C_2: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of what enters GELU and leaves the linear layer of C features after it.

    ``d = scale * dy`` (None if that is dy itself), ``g = gelu(h)``, ``dh = (d @ w) * gelu'(h)``. A
    program writes its rows of ``sums``, (programs, C) in fp32, of d, and of ``hidden_sums``,
    (programs, HIDDEN), of dh.
    """
    C: tl.constexpr = C_1 + C_2
    dtype = w.dtype.element_ty
    block = block_rows(tl.program_id(0), n_rows, ROWS)
    d_1 = _branch_gradient(dy, scale, d, sums, 0, block, rows_per_image, 0, C, C_1, dtype)
    d_2 = _branch_gradient(dy, scale, d, sums, 0, block, rows_per_image, C_1, C, C_2, dtype)
    for first in range(0, HIDDEN, CHUNK):
        w_1 = _load_w2(w, first, 0, HIDDEN, CHUNK, C_1)
        w_2 = _load_w2(w, first, C_1, HIDDEN, CHUNK, C_2)
        d_g = tl.dot(d_1, w_1, input_precision=PRECISION)
        d_g = tl.dot(d_2, w_2, d_g, input_precision=PRECISION)
        hidden = load(h, block, first, HIDDEN, CHUNK).to(tl.float32)
        cdf = normal_cdf(hidden, dtype)
        store(g, block, first, hidden * cdf, HIDDEN, CHUNK)
        d_h = (d_g * gelu_derivative(hidden, cdf)).to(dtype)
        _store_sum(hidden_sums, 0, d_h, first, HIDDEN, CHUNK)
        store(dh, block, first, d_h, HIDDEN, CHUNK)


@triton.jit(do_not_specialize=SIZES)
def norm_linear_backward(
    dy, x, norm_weight, norm_bias, w, d_residual, dx, xn, sums, feature_sums,
    n_rows, rows_per_image, eps,
    C_1: tl.constexpr, C_2: tl.constexpr, FEATURES: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of rows of ``norm(x) @ w.T + b``, with the residual's where given.

    Also the norm's output ``xn``, which the weight's gradient needs. A program writes its rows of
    ``sums``, (2, programs, C) in fp32: gradients of the norm's weight and bias; and its row of
    ``feature_sums``, (programs, FEATURES), of dy.
    """
    C: tl.constexpr = C_1 + C_2
    block = block_rows(tl.program_id(0), n_rows, ROWS)
    dn_1 = tl.zeros((ROWS, C_1), tl.float32)
    dn_2 = tl.zeros((ROWS, C_2), tl.float32)
    for first in range(0, FEATURES, CHUNK):
        d = load(dy, block, first, FEATURES, CHUNK)
        _store_sum(feature_sums, 0, d, first, FEATURES, CHUNK)
        w_1 = load_features(w, first, 0, C, CHUNK, C_1)
        w_2 = load_features(w, first, C_1, C, CHUNK, C_2)
        dn_1 = tl.dot(d, w_1, dn_1, input_precision=PRECISION)
        dn_2 = tl.dot(d, w_2, dn_2, input_precision=PRECISION)
    x_1 = load(x, block, 0, C, C_1).to(tl.float32)
    x_2 = load(x, block, C_1, C, C_2).to(tl.float32)
    mean, rstd = moments(x_1, x_2, eps, C)
    dtype = w.dtype.element_ty
    n_1 = normalised(x_1, mean, rstd, norm_weight, norm_bias, 0, C_1, dtype)
    n_2 = normalised(x_2, mean, rstd, norm_weight, norm_bias, C_1, C_2, dtype)
    store(xn, block, 0, n_1, C, C_1)
    store(xn, block, C_1, n_2, C, C_2)
    mean_d, mean_product = _norm_sums(x, dn_1, mean, rstd, norm_weight, sums, block, 0, C, C_1)
    more, more_product = _norm_sums(x, dn_2, mean, rstd, norm_weight, sums, block, C_1, C, C_2)
    means = (mean, rstd, (mean_d + more) / C, (mean_product + more_product) / C)
    _store_norm_gradient(x, d_residual, dn_1, means, norm_weight, dx, block, 0, C, C_1)
    _store_norm_gradient(x, d_residual, dn_2, means, norm_weight, dx, block, C_1, C, C_2)
