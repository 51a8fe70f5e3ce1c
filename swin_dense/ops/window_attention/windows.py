"""Geometry of windows: where a token goes, never what it holds (paper section 3.2).

A feature map ``(B, H, W, C)`` is cut into windows of M x M tokens. Sizes that M does not divide are
padded at the bottom and the right first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class WindowSpec(NamedTuple):
    """What a backend needs besides tensors: see :func:`~.api.shifted_window_attention`."""

    num_heads: int
    window_size: int
    shift_size: int
    scale: float


def padded_size(height: int, width: int, window_size: int) -> tuple[int, int]:
    """Height and width in tokens, rounded up to whole windows."""
    m = window_size
    return (height + m - 1) // m * m, (width + m - 1) // m * m


def partition(x: Tensor, window_size: int) -> Tensor:
    """Cut into windows: ``(B, H, W, C) -> (B, nW, N, C)``, windows in row-major order.

    H and W are multiples of ``window_size``; N = M * M tokens, row-major too.
    """
    b, h, w, c = x.shape
    m = window_size
    x = x.view(b, h // m, m, w // m, m, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, (h // m) * (w // m), m * m, c)


def merge(windows: Tensor, height: int, width: int) -> Tensor:
    """Put windows back together: ``(B, nW, N, C) -> (B, H, W, C)``; undoes :func:`partition`."""
    b, _, n, c = windows.shape
    m = int(n**0.5)
    x = windows.view(b, height // m, width // m, m, m, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, height, width, c)


def pad_with_bias(qkv: Tensor, qkv_bias: Tensor | None, window_size: int) -> Tensor:
    """Pad a feature map to whole windows: ``(B, H, W, 3C) -> (B, H', W', 3C)``.

    The block pads with zeros after its first LayerNorm, so a padded token's q, k and v are
    the bias of the qkv layer: it is attended to like any other, and sends that bias a gradient.
    """
    b, h, w, c = qkv.shape
    padded_h, padded_w = padded_size(h, w, window_size)
    fill = qkv.new_zeros(c) if qkv_bias is None else qkv_bias.to(qkv.dtype)
    if padded_w > w:
        qkv = torch.cat([qkv, fill.expand(b, h, padded_w - w, c)], dim=2)
    if padded_h > h:
        qkv = torch.cat([qkv, fill.expand(b, padded_h - h, padded_w, c)], dim=1)
    return qkv


def to_windows(
    qkv: Tensor, qkv_bias: Tensor | None, spec: WindowSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Pad, shift and partition: ``(B, H, W, 3C)`` to q, k, v of ``(B, nW, heads, N, C/heads)``."""
    num_heads, window_size, shift_size, _ = spec
    qkv = pad_with_bias(qkv, qkv_bias, window_size)
    if shift_size:
        qkv = torch.roll(qkv, (-shift_size, -shift_size), dims=(1, 2))
    qkv = partition(qkv, window_size).unflatten(-1, (3, num_heads, -1))
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
    return q, k, v


def from_windows(out: Tensor, height: int, width: int, spec: WindowSpec) -> Tensor:
    """Undo :func:`to_windows`: ``(B, nW, heads, N, d) -> (B, height, width, heads * d)``."""
    out = out.transpose(2, 3).flatten(-2)
    out = merge(out, *padded_size(height, width, spec.window_size))
    if spec.shift_size:
        out = torch.roll(out, (spec.shift_size, spec.shift_size), dims=(1, 2))
    return out[:, :height, :width]


def window_tokens(height: int, width: int, window_size: int, shift_size: int) -> Tensor:
    """Which token each place of the shifted windows holds, ``(nW, N)`` int64.

    Tokens of the feature map are counted row by row; -1 is padding.
    """
    padded_h, padded_w = padded_size(height, width, window_size)
    rows = (torch.arange(padded_h)[:, None] + shift_size) % padded_h
    columns = (torch.arange(padded_w) + shift_size) % padded_w
    inside = (rows < height) & (columns < width)
    tokens = torch.where(inside, rows * width + columns, -1)
    return partition(tokens[None, :, :, None], window_size)[0, :, :, 0]


def relative_position_index(window_size: int) -> Tensor:
    """Row of the bias table for every (query, key) pair of a window, ``(N, N)`` int64.

    The offset query - key lies in [-M + 1, M - 1] on both axes, so the table has (2M - 1)^2
    rows, ordered by (row offset, column offset) (paper section 3.2, "relative position bias").
    """
    steps = torch.arange(window_size)
    tokens = torch.cartesian_prod(steps, steps)
    offsets = tokens[:, None] - tokens + window_size - 1
    return offsets[..., 0] * (2 * window_size - 1) + offsets[..., 1]


def shift_regions(height: int, width: int, window_size: int, shift_size: int) -> Tensor:
    """Region of every token after the cyclic shift, by window: ``(nW, N)`` int64.

    Height and width are multiples of ``window_size``. The roll brings the first
    ``shift_size`` rows (columns) to the far end, next to tokens that were never their
    neighbours; tokens attend to each other only within one region (paper figure 4).
    """

    def bands(length: int) -> Tensor:
        at = torch.arange(length)
        return (at >= length - window_size).long() + (at >= length - shift_size).long()

    regions = 3 * bands(height)[:, None] + bands(width)[None, :]
    return partition(regions[None, :, :, None], window_size)[0, :, :, 0]


_mask_store: ContextVar[dict[tuple, Tensor] | None] = ContextVar("mask_store", default=None)


@contextmanager
def mask_store(masks: dict[tuple, Tensor]) -> Iterator[None]:
    """Within it, :func:`shift_mask` keeps its masks in ``masks`` instead of a shared cache.

    A CUDA graph reads its masks at every replay, so they must live as long as the graph.
    """
    token = _mask_store.set(masks)
    try:
        yield
    finally:
        _mask_store.reset(token)


def shift_mask(
    height: int, width: int, spec: WindowSpec, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Additive mask of shifted windows, ``(nW, N, N)``: 0 within a region, -100 across.

    -100 and not -inf, as in the official code: the trained weights have seen the difference.
    """
    size = padded_size(height, width, spec.window_size)
    key = (*size, spec.window_size, spec.shift_size, device, dtype)
    store = _mask_store.get()
    if store is None:
        return _cached_mask(*key)
    if key not in store:
        store[key] = _make_mask(*key)
    return store[key]


def _make_mask(
    height: int, width: int, window_size: int, shift_size: int,
    device: torch.device, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    # A mask made under inference mode could not serve a training step later.
    with torch.inference_mode(False), torch.no_grad():
        regions = shift_regions(height, width, window_size, shift_size).to(device)
        same = regions[:, :, None] == regions[:, None, :]
        return torch.zeros(same.shape, dtype=dtype, device=device).masked_fill_(~same, -100.0)


# Two entries a stage: enough for one input size at a time, and little memory to hold on to.
_cached_mask = lru_cache(maxsize=8)(_make_mask)


def log_spaced_offsets(window_size: int, pretrained_window_size: int = 0) -> Tensor:
    """Offsets between the tokens of a window on a logarithmic scale, ``(1, 2M - 1, 2M - 1, 2)``.

    Entry (i, j) is (c(i - M + 1), c(j - M + 1)), rows first, where c(d) = sign(d) log8(1 + 8|d| /
    (P - 1)), so that offsets in the pretraining window P lie in about -1 ... 1 (Swin V2, equation
    4). Computed in float64, returned in float32.

    Args:
        window_size: side M of a window in tokens.
        pretrained_window_size: side P of the windows of pretraining; 0 for M.
    """
    step = torch.arange(1 - window_size, window_size, dtype=torch.float64)
    relative = 8 * step / max((pretrained_window_size or window_size) - 1, 1)
    axis = relative.sign() * (relative.abs() + 1).log2() / 3
    pair = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack(pair, dim=-1)[None].to(torch.float32)


def pretrained_window_size(offsets: Tensor) -> int | None:
    """P of a table of :func:`log_spaced_offsets`; None if it cannot be told."""
    window_size = (offsets.shape[1] + 1) // 2
    largest = float(offsets.max())
    if window_size < 2 or not 0 < largest < 10:
        return None
    return round(8 * (window_size - 1) / (2 ** (3 * largest) - 1)) + 1
