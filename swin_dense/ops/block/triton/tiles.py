"""Parts of Triton kernels that hold whole rows of channels, in two tiles.

A row of C channels is two tiles, C_1 + C_2: a tile's sides are powers of 2, and 96 channels are
better 64 + 32 than 128. A power of 2 is halved, as tiles are worked on one after the other and
half a row needs half the registers. A ``block`` is what ``block_rows`` returns.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
