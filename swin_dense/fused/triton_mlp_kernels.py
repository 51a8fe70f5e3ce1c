"""Triton kernels of a Swin block's MLP with its norm and residual, forward and backward.

A program owns a block of rows: it normalises them and goes over the hidden units by chunks, so
that hidden activations never leave the chip forward. Backward computes them again and writes what
the weights' gradients, plain matrix products, need.

A row of C channels is two tiles, since a tile's sides are powers of 2 and 96 channels are better
64 + 32 than 128. ``C_2`` is 0 where one tile is the whole row; then whatever ends in ``_2`` is
None, and so is compiled away.
"""

from __future__ import annotations

import triton
import triton.language as tl

from swin_dense.fused.triton_norm_kernels import SIZES, block_rows, scaled


@triton.jit
def _load(pointer, row, inside, first, C: tl.constexpr, WIDTH: tl.constexpr):
    """Channels ``first`` to ``first + WIDTH`` of some rows."""
    at = row[:, None] * C + first + tl.arange(0, WIDTH)[None, :]
    return tl.load(pointer + at, mask=inside[:, None], other=0.0)


@triton.jit
def _store(pointer, row, inside, first, tile, C: tl.constexpr, WIDTH: tl.constexpr):
    at = row[:, None] * C + first + tl.arange(0, WIDTH)[None, :]
    tl.store(pointer + at, tile.to(pointer.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _load_rows(pointer, row, inside, C_1: tl.constexpr, C_2: tl.constexpr):
    """Both tiles of some rows."""
    tile_2 = None
    if C_2 > 0:
        tile_2 = _load(pointer, row, inside, C_1, C_1 + C_2, C_2)
    return _load(pointer, row, inside, 0, C_1 + C_2, C_1), tile_2


@triton.jit
def _row_sum(x_1, x_2):
    total = tl.sum(x_1, 1)
    if x_2 is not None:
        total += tl.sum(x_2, 1)
    return total


@triton.jit
def _standardised(pointer, row, inside, eps, C_1: tl.constexpr, C_2: tl.constexpr):
    """Rows of mean 0 and variance 1 in fp32, in two tiles; 1 / deviation of each row."""
    x_1, x_2 = _load_rows(pointer, row, inside, C_1, C_2)
    x_1 = x_1.to(tl.float32)
    if C_2 > 0:
        x_2 = x_2.to(tl.float32)
    mean = _row_sum(x_1, x_2) / (C_1 + C_2)
    x_1 -= mean[:, None]
    square_2 = None
    if C_2 > 0:
        x_2 -= mean[:, None]
        square_2 = x_2 * x_2
    rstd = tl.rsqrt(_row_sum(x_1 * x_1, square_2) / (C_1 + C_2) + eps)
    x_1 *= rstd[:, None]
    if C_2 > 0:
        x_2 *= rstd[:, None]
    return x_1, x_2, rstd


@triton.jit
def _vector(pointer, first, WIDTH: tl.constexpr):
    """``WIDTH`` numbers of a parameter, as a row in fp32."""
    return tl.load(pointer + first + tl.arange(0, WIDTH)).to(tl.float32)[None, :]


@triton.jit
def _normalised(
    x, weight, bias, row, inside, eps, C_1: tl.constexpr, C_2: tl.constexpr, dtype: tl.constexpr
):
    """LayerNorm of some rows in two tiles of ``dtype``."""
    x_1, x_2, _ = _standardised(x, row, inside, eps, C_1, C_2)
    x_1 = (x_1 * _vector(weight, 0, C_1) + _vector(bias, 0, C_1)).to(dtype)
    if C_2 > 0:
        x_2 = (x_2 * _vector(weight, C_1, C_2) + _vector(bias, C_1, C_2)).to(dtype)
    return x_1, x_2


@triton.jit
def _product(a_1, a_2, b_1, b_2, PRECISION: tl.constexpr):
    """Product over channels in two tiles, in fp32."""
    product = tl.dot(a_1, b_1, input_precision=PRECISION)
    if a_2 is not None:
        product = tl.dot(a_2, b_2, product, input_precision=PRECISION)
    return product


@triton.jit
def _load_w1(w1, first, CHUNK: tl.constexpr, C_1: tl.constexpr, C_2: tl.constexpr):
    """Rows of a weight ``(features, C)``: ``(CHUNK, C_1)`` and ``(CHUNK, C_2)``."""
    feature = (first + tl.arange(0, CHUNK))[:, None] * (C_1 + C_2)
    w_2 = None
    if C_2 > 0:
        w_2 = tl.load(w1 + feature + C_1 + tl.arange(0, C_2)[None, :])
    return tl.load(w1 + feature + tl.arange(0, C_1)[None, :]), w_2


@triton.jit
def _load_w2(w2, first, HIDDEN: tl.constexpr, CHUNK: tl.constexpr, C_1: tl.constexpr,
             C_2: tl.constexpr):  # fmt: skip
    """Columns of the weight ``(C, HIDDEN)``: ``(C_1, CHUNK)`` and ``(C_2, CHUNK)``."""
    hidden = (first + tl.arange(0, CHUNK))[None, :]
    w_2 = None
    if C_2 > 0:
        w_2 = tl.load(w2 + (C_1 + tl.arange(0, C_2))[:, None] * HIDDEN + hidden)
    return tl.load(w2 + tl.arange(0, C_1)[:, None] * HIDDEN + hidden), w_2


@triton.jit
def _normal_cdf(h):
    """Probability that a standard normal variable is less than h: GELU is h times this."""
    return 0.5 * (1.0 + tl.erf(h * 0.7071067811865476))


@triton.jit
def _store_branch(
    m, scale, branch, b2, out, row, inside, rows_per_image, first,
    C: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """``out = m + scale * (branch + b2)`` for a tile of columns."""
    branch = scaled(branch + _vector(b2, first, WIDTH), scale, row, inside, rows_per_image)
    residual = _load(m, row, inside, first, C, WIDTH).to(tl.float32)
    _store(out, row, inside, first, residual + branch, C, WIDTH)


@triton.jit(do_not_specialize=SIZES)
def mlp(
    m, scale, norm_weight, norm_bias, w1, b1, w2, b2, out, n_rows, rows_per_image, eps,
    C_1: tl.constexpr, C_2: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out = m + scale * fc2(gelu(fc1(norm(m))))`` of a block of rows."""
    dtype = w1.dtype.element_ty
    row, inside = block_rows(tl.program_id(0), n_rows, ROWS, WIDE)
    n_1, n_2 = _normalised(m, norm_weight, norm_bias, row, inside, eps, C_1, C_2, dtype)
    sum_1 = tl.zeros((ROWS, C_1), tl.float32)
    if C_2 > 0:
        sum_2 = tl.zeros((ROWS, C_2), tl.float32)
    for first in range(0, HIDDEN, CHUNK):
        w1_1, w1_2 = _load_w1(w1, first, CHUNK, C_1, C_2)
        if C_2 > 0:
            w1_2 = tl.trans(w1_2)
        h = _product(n_1, n_2, tl.trans(w1_1), w1_2, PRECISION) + _vector(b1, first, CHUNK)
        g = (h * _normal_cdf(h)).to(dtype)
        w2_1, w2_2 = _load_w2(w2, first, HIDDEN, CHUNK, C_1, C_2)
        sum_1 = tl.dot(g, tl.trans(w2_1), sum_1, input_precision=PRECISION)
        if C_2 > 0:
            sum_2 = tl.dot(g, tl.trans(w2_2), sum_2, input_precision=PRECISION)
    _store_branch(m, scale, sum_1, b2, out, row, inside, rows_per_image, 0, C_1 + C_2, C_1)
    if C_2 > 0:
        _store_branch(m, scale, sum_2, b2, out, row, inside, rows_per_image, C_1, C_1 + C_2, C_2)


@triton.jit
def _branch_gradient(
    dy, scale, d2, row, inside, rows_per_image, first,
    C: tl.constexpr, WIDTH: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """``scale * dy`` in ``dtype`` for a tile of columns; written where it is wanted."""
    d = _load(dy, row, inside, first, C, WIDTH).to(tl.float32)
    d = scaled(d, scale, row, inside, rows_per_image).to(dtype)
    if d2 is not None:
        _store(d2, row, inside, first, d, C, WIDTH)
    return d


@triton.jit
def _store_norm_gradients(
    dy, unit, dn, weight, mean, mean_unit, rstd, dm, d_weight, d_bias, row, inside, first,
    C: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients through the norm for a tile of columns, and the program's sums over its rows."""
    d = dn * _vector(weight, first, WIDTH) - mean[:, None] - unit * mean_unit[:, None]
    d = d * rstd[:, None] + _load(dy, row, inside, first, C, WIDTH).to(tl.float32)
    _store(dm, row, inside, first, d, C, WIDTH)
    at = tl.program_id(0) * C + first + tl.arange(0, WIDTH)
    tl.store(d_weight + at, tl.sum(dn * unit, 0))
    tl.store(d_bias + at, tl.sum(dn, 0))


@triton.jit(do_not_specialize=SIZES)
def mlp_backward(
    m, dy, scale, norm_weight, norm_bias, w1, b1, w2, dm, d_weight, d_bias, mn, g, dh, d2,
    n_rows, rows_per_image, eps,
    C_1: tl.constexpr, C_2: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of rows, and what the gradients of weights need of them.

    That is the norm's output ``mn``, the activations ``g``, and gradients ``dh`` of what enters
    GELU and ``d2`` of what leaves the last layer (None if that is dy itself). Of the norm's
    parameters a program writes its row of ``d_weight`` and ``d_bias``, ``(programs, C)`` fp32.
    """
    C: tl.constexpr = C_1 + C_2
    dtype = w1.dtype.element_ty
    row, inside = block_rows(tl.program_id(0), n_rows, ROWS, WIDE)
    n_1, n_2 = _normalised(m, norm_weight, norm_bias, row, inside, eps, C_1, C_2, dtype)
    _store(mn, row, inside, 0, n_1, C, C_1)
    d_1 = _branch_gradient(dy, scale, d2, row, inside, rows_per_image, 0, C, C_1, dtype)
    dn_1 = tl.zeros((ROWS, C_1), tl.float32)
    d_2 = None
    if C_2 > 0:
        _store(mn, row, inside, C_1, n_2, C, C_2)
        d_2 = _branch_gradient(dy, scale, d2, row, inside, rows_per_image, C_1, C, C_2, dtype)
        dn_2 = tl.zeros((ROWS, C_2), tl.float32)
    for first in range(0, HIDDEN, CHUNK):
        w1_1, w1_2 = _load_w1(w1, first, CHUNK, C_1, C_2)
        w1_2_t = None
        if C_2 > 0:
            w1_2_t = tl.trans(w1_2)
        h = _product(n_1, n_2, tl.trans(w1_1), w1_2_t, PRECISION) + _vector(b1, first, CHUNK)
        w2_1, w2_2 = _load_w2(w2, first, HIDDEN, CHUNK, C_1, C_2)
        d = _product(d_1, d_2, w2_1, w2_2, PRECISION)
        cdf = _normal_cdf(h)
        _store(g, row, inside, first, h * cdf, HIDDEN, CHUNK)
        # The derivative of GELU; the factor is 1 / sqrt(2 pi).
        d = d * (cdf + h * tl.exp(-0.5 * h * h) * 0.3989422804014327)
        d = d.to(dtype)
        _store(dh, row, inside, first, d, HIDDEN, CHUNK)
        dn_1 = tl.dot(d, w1_1, dn_1, input_precision=PRECISION)
        if C_2 > 0:
            dn_2 = tl.dot(d, w1_2, dn_2, input_precision=PRECISION)
    # Of rows that do not exist m and dy are 0, but not h: nothing is written of them, and d is 0.
    unit_1, unit_2, rstd = _standardised(m, row, inside, eps, C_1, C_2)
    dx_1 = dn_1 * _vector(norm_weight, 0, C_1)
    dx_2, product_2 = None, None
    if C_2 > 0:
        dx_2 = dn_2 * _vector(norm_weight, C_1, C_2)
        product_2 = dx_2 * unit_2
    mean = _row_sum(dx_1, dx_2) / C
    mean_unit = _row_sum(dx_1 * unit_1, product_2) / C
    _store_norm_gradients(
        dy, unit_1, dn_1, norm_weight, mean, mean_unit, rstd, dm, d_weight, d_bias, row, inside,
        0, C, C_1,
    )  # fmt: skip
    if C_2 > 0:
        _store_norm_gradients(
            dy, unit_2, dn_2, norm_weight, mean, mean_unit, rstd, dm, d_weight, d_bias, row,
            inside, C_1, C, C_2,
        )  # fmt: skip
