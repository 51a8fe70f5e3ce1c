"""GELU in Triton, forward and backward: exact in fp32, without ``erf`` in 16 bits."""

import triton
import triton.language as tl

from swin_dense.ops.block.triton.norm_kernels import SIZES, block_rows, scaled


@triton.jit
def normal_cdf(h, dtype: tl.constexpr):
    """Probability that a standard normal variable is less than h: GELU is h times this.

    For results in 16 bits it is a polynomial, cut off at 0 and 1: a third of erf's instructions.
    The largest error of GELU is 4.3e-5, rounding of fp32 included; that of its derivative 2.9e-5.
    Beyond 4.35 the polynomial leaves [0, 1] and never comes back: GELU is exactly 0 or h.
    :func:`gelu_of` has a shorter one for GELU alone.
    """
    if dtype == tl.float32:
        cdf = 0.5 * (1.0 + tl.erf(h * 0.7071067811865476))
    else:
        t = h * h
        p = t * 4.346909e-11 - 4.409556e-09
        p = p * t + 1.971597e-07
        p = p * t - 5.164157e-06
        p = p * t + 8.918631e-05
        p = p * t - 1.087176e-03
        p = p * t + 9.762599e-03
        p = p * t - 6.629900e-02
        p = p * t + 3.989130e-01
        # One instruction on NVIDIA: a multiply-add that saturates.
        cdf = tl.clamp(h * p + 0.5, 0.0, 1.0)
    return cdf


@triton.jit
def gelu_of(h, dtype: tl.constexpr):
    """GELU of h for results in ``dtype``; in 16 bits its largest error is 4.6e-5.

    The polynomial is in (h^2 - 31.75)^2, which saves one multiply-add of ten. The probability
    alone is off by up to 8.4e-5, near 0: too much for the derivative.
    """
    if dtype == tl.float32:
        cdf = normal_cdf(h, dtype)
    else:
        t = h * h - 31.75
        t = t * t
        p = t * 3.518129e-19 - 6.136891e-16
        p = p * t + 5.336115e-13
        p = p * t - 1.037804e-10
        p = p * t + 1.245797e-08
        p = p * t + 1.140053e-04
        p = p * t + 9.600266e-02
        cdf = tl.clamp(h * p + 0.5, 0.0, 1.0)
    return h * cdf


@triton.jit
def gelu_derivative(h, cdf):
    """Derivative of GELU at h, with :func:`normal_cdf` of h: the density is 2^(...)."""
    # -1 / (2 ln 2), and the logarithm of 1 / sqrt(2 pi).
    return cdf + h * tl.exp2(h * h * -0.7213475204444817 - 1.3257480647361593)


@triton.jit(do_not_specialize=("size",))
def gelu(h, g, size, BLOCK: tl.constexpr):
    """``g = gelu(h)`` for so many numbers."""
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    value = tl.load(h + first + at, mask=at < size - first, other=0.0).to(tl.float32)
    value = gelu_of(value, h.dtype.element_ty)
    tl.store(g + first + at, value.to(g.dtype.element_ty), mask=at < size - first)


@triton.jit(do_not_specialize=SIZES)
def branch_backward(
    d, h, scale, g, out, d_bias, n_rows, rows_per_image,
    C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of a linear layer's result, ``(T, C)``, and of its bias, their sum over rows.

    ``out = scale * d``, times GELU's derivative at h where h is given; then also ``g = gelu(h)``.
    ``out`` may be d, or None if it equals d. A program strides over rows of some columns and
    writes its part of a row of ``d_bias``, ``(programs, C)`` fp32.
    """
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    at = tl.arange(0, ROWS)[:, None] * C + column[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(n_rows, ROWS), tl.num_programs(0)):
        rows = block_rows(block, n_rows, ROWS)
        first, _, inside = rows
        mask = inside[:, None] & (column < C)[None, :]
        value = tl.load(d + first * C + at, mask=mask, other=0.0).to(tl.float32)
        value = scaled(value, scale, rows, rows_per_image)
        if h is not None:
            hidden = tl.load(h + first * C + at, mask=mask, other=0.0).to(tl.float32)
            cdf = normal_cdf(hidden, h.dtype.element_ty)
            tl.store(g + first * C + at, (hidden * cdf).to(g.dtype.element_ty), mask=mask)
            value *= gelu_derivative(hidden, cdf)
        if out is not None:
            tl.store(out + first * C + at, value.to(out.dtype.element_ty), mask=mask)
        total += value
    tl.store(d_bias + tl.program_id(0) * C + column, tl.sum(total, 0), mask=column < C)
