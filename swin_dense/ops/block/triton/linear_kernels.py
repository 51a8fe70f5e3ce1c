"""Triton kernel of a linear layer with LayerNorm before it, or a residual after it.

A program owns a block of rows, the whole of them in two tiles as
:mod:`~.triton.tiles` says, and goes over the features by chunks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from swin_dense.ops.block.triton.norm_kernels import SIZES, block_rows, scaled
from swin_dense.ops.block.triton.tiles import (
    load,
    load_features,
    moments,
    normalised,
    store,
    vector,
)


@triton.jit(do_not_specialize=SIZES)
def linear(
    a, norm_weight, norm_bias, w, b, x, scale, out, n_rows, rows_per_image, eps,
    C_1: tl.constexpr, C_2: tl.constexpr, FEATURES: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out = x + scale * (norm(a) @ w.T + b)``; norm, b, x and scale may each be None."""
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
        store(out, block, first, y, FEATURES, CHUNK)
