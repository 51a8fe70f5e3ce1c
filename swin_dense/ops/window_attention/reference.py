"""Shifted-window attention in plain PyTorch: the definition of correct.

Every other implementation is tested against this one, in forward and in every gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.window_attention import windows


def pad_with_bias(qkv: Tensor, qkv_bias: Tensor | None, window_size: int) -> Tensor:
    """Fill a map up to whole windows: ``(B, H, W, 3C) -> (B, H', W', 3C)``.

    The block pads with zeros after its first LayerNorm, so a padded token's q, k and v are
    the bias of the qkv layer: it is attended to like any other, and sends that bias a gradient.
    """
    b, h, w, c = qkv.shape
    padded_h, padded_w = windows.padded_size(h, w, window_size)
    fill = qkv.new_zeros(c) if qkv_bias is None else qkv_bias.to(qkv.dtype)
    if padded_w > w:
        qkv = torch.cat([qkv, fill.expand(b, h, padded_w - w, c)], dim=2)
    if padded_h > h:
        qkv = torch.cat([qkv, fill.expand(b, padded_h - h, padded_w, c)], dim=1)
    return qkv


def to_windows(
    qkv: Tensor, qkv_bias: Tensor | None, num_heads: int, window_size: int, shift_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pad, shift and cut a map: ``(B, H, W, 3C)`` to q, k, v of ``(B, nW, heads, N, C/heads)``."""
    qkv = pad_with_bias(qkv, qkv_bias, window_size)
    if shift_size:
        qkv = torch.roll(qkv, (-shift_size, -shift_size), dims=(1, 2))
    qkv = windows.partition(qkv, window_size).unflatten(-1, (3, num_heads, -1))
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
    return q, k, v


def from_windows(out: Tensor, height: int, width: int, window_size: int, shift_size: int) -> Tensor:
    """Undo :func:`to_windows`: ``(B, nW, heads, N, d) -> (B, height, width, heads * d)``."""
    out = out.transpose(2, 3).flatten(-2)
    out = windows.merge(out, *windows.padded_size(height, width, window_size))
    if shift_size:
        out = torch.roll(out, (shift_size, shift_size), dims=(1, 2))
    return out[:, :height, :width]


def shifted_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """softmax(scale * q k^T + B) v in every window (paper equation 4).

    Arguments and result are those of :func:`~.api.shifted_window_attention`.
    """
    h, w = qkv.shape[1:3]
    q, k, v = to_windows(qkv, qkv_bias, num_heads, window_size, shift_size)
    scores = (q * scale) @ k.transpose(-2, -1)
    if position_bias is not None:
        scores = scores + position_bias
    if shift_size:
        size = windows.padded_size(h, w, window_size)
        mask = windows.shift_mask(*size, window_size, shift_size, qkv.device, qkv.dtype)
        scores = scores + mask[:, None]
    weights = F.dropout(scores.softmax(dim=-1).to(v.dtype), dropout_p)
    return from_windows(weights @ v, h, w, window_size, shift_size)
