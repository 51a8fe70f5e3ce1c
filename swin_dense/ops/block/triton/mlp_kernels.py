"""Triton kernels of a Swin block's MLP with its norm and residual, forward and backward.

A program owns a block of rows: it normalises them and goes over the hidden units by chunks, so
that hidden activations never leave the chip forward. Backward computes them again and writes what
the weights' gradients, plain matrix products, need.
"""

from __future__ import annotations

import triton
import triton.language as tl

from swin_dense.ops.block.triton.norm_kernels import SIZES, block_rows, scaled
from swin_dense.ops.block.triton.tiles import (
    add_store,
    load,
    load_features,
    moments,
    normalised,
    store,
    vector,
)


@triton.jit
def _load_w2(w2, first, column, HIDDEN: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """Some columns of the weight ``(C, HIDDEN)``, ``(WIDTH, CHUNK)`` from a row on."""
    channel = (column + tl.arange(0, WIDTH))[:, None]
    return tl.load(w2 + channel * HIDDEN + first + tl.arange(0, CHUNK)[None, :])


@triton.jit
def _normal_cdf(h):
    """Probability that a standard normal variable is less than h: GELU is h times this."""
    return 0.5 * (1.0 + tl.erf(h * 0.7071067811865476))


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
        h = tl.dot(n_1, tl.trans(w1_1), input_precision=PRECISION)
        h = tl.dot(n_2, tl.trans(w1_2), h, input_precision=PRECISION)
        h += vector(b1, first, CHUNK)
        g = (h * _normal_cdf(h)).to(dtype)
        w2_1 = _load_w2(w2, first, 0, HIDDEN, CHUNK, C_1)
        w2_2 = _load_w2(w2, first, C_1, HIDDEN, CHUNK, C_2)
        sum_1 = tl.dot(g, tl.trans(w2_1), sum_1, input_precision=PRECISION)
        sum_2 = tl.dot(g, tl.trans(w2_2), sum_2, input_precision=PRECISION)
    sum_1 = scaled(sum_1 + vector(b2, 0, C_1), scale, block, rows_per_image)
    sum_2 = scaled(sum_2 + vector(b2, C_1, C_2), scale, block, rows_per_image)
    add_store(m, sum_1, out, block, 0, C, C_1)
    add_store(m, sum_2, out, block, C_1, C, C_2)


@triton.jit
def _branch_gradient(
    dy, scale, d2, block, rows_per_image, column,
    C: tl.constexpr, WIDTH: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """``scale * dy`` in ``dtype`` for a tile of columns; written where it is wanted."""
    d = load(dy, block, column, C, WIDTH).to(tl.float32)
    d = scaled(d, scale, block, rows_per_image).to(dtype)
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
    m, dn, mean, rstd, weight, d_weight, d_bias, block, column,
    C: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """What a tile of columns adds to the sums that the norm's gradients need.

    Over rows, the program's part of the gradients of weight and bias, it is written; over
    columns, of the gradient of the standardised rows and of its product with them, returned.
    """
    unit = _unit(m, mean, rstd, block, column, C, WIDTH)
    at = tl.program_id(0) * C + column + tl.arange(0, WIDTH)
    tl.store(d_weight + at, tl.sum(dn * unit, 0))
    tl.store(d_bias + at, tl.sum(dn, 0))
    d = dn * vector(weight, column, WIDTH)
    return tl.sum(d, 1), tl.sum(d * unit, 1)


@triton.jit
def _store_norm_gradient(
    m, dy, dn, means, weight, dm, block, column,
    C: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of columns of the norm's input, with the residual's."""
    mean, rstd, mean_d, mean_product = means
    unit = _unit(m, mean, rstd, block, column, C, WIDTH)
    d = dn * vector(weight, column, WIDTH) - mean_d[:, None] - unit * mean_product[:, None]
    add_store(dy, d * rstd[:, None], dm, block, column, C, WIDTH)


@triton.jit(do_not_specialize=SIZES)
def mlp_backward(
    m, dy, scale, norm_weight, norm_bias, w1, b1, w2, dm, d_weight, d_bias, mn, g, dh, d2,
    n_rows, rows_per_image, eps,
    C_1: tl.constexpr, C_2: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of rows, and what the gradients of weights need of them.

    That is the norm's output ``mn``, the activations ``g``, and gradients ``dh`` of what enters
    GELU and ``d2`` of what leaves the last layer (None if that is dy itself). Of the norm's
    parameters a program writes its row of ``d_weight`` and ``d_bias``, ``(programs, C)`` fp32.
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
    d_1 = _branch_gradient(dy, scale, d2, block, rows_per_image, 0, C, C_1, dtype)
    d_2 = _branch_gradient(dy, scale, d2, block, rows_per_image, C_1, C, C_2, dtype)
    dn_1 = tl.zeros((ROWS, C_1), tl.float32)
    dn_2 = tl.zeros((ROWS, C_2), tl.float32)
    for first in range(0, HIDDEN, CHUNK):
        w1_1 = load_features(w1, first, 0, C, CHUNK, C_1)
        w1_2 = load_features(w1, first, C_1, C, CHUNK, C_2)
        w2_1 = _load_w2(w2, first, 0, HIDDEN, CHUNK, C_1)
        w2_2 = _load_w2(w2, first, C_1, HIDDEN, CHUNK, C_2)
        h = tl.dot(n_1, tl.trans(w1_1), input_precision=PRECISION)
        d = tl.dot(d_1, w2_1, input_precision=PRECISION)
        h = tl.dot(n_2, tl.trans(w1_2), h, input_precision=PRECISION)
        d = tl.dot(d_2, w2_2, d, input_precision=PRECISION)
        h += vector(b1, first, CHUNK)
        cdf = _normal_cdf(h)
        store(g, block, first, h * cdf, HIDDEN, CHUNK)
        # The derivative of GELU; the factor is 1 / sqrt(2 pi).
        d = (d * (cdf + h * tl.exp(-0.5 * h * h) * 0.3989422804014327)).to(dtype)
        store(dh, block, first, d, HIDDEN, CHUNK)
        dn_1 = tl.dot(d, w1_1, dn_1, input_precision=PRECISION)
        dn_2 = tl.dot(d, w1_2, dn_2, input_precision=PRECISION)
    # Rows of m are read again, tile by tile: registers are better spent on the sums.
    mean_d, mean_product = _norm_sums(
        m, dn_1, mean, rstd, norm_weight, d_weight, d_bias, block, 0, C, C_1
    )
    more, more_product = _norm_sums(
        m, dn_2, mean, rstd, norm_weight, d_weight, d_bias, block, C_1, C, C_2
    )
    mean_d += more
    mean_product += more_product
    means = (mean, rstd, mean_d / C, mean_product / C)
    _store_norm_gradient(m, dy, dn_1, means, norm_weight, dm, block, 0, C, C_1)
    _store_norm_gradient(m, dy, dn_2, means, norm_weight, dm, block, C_1, C, C_2)
