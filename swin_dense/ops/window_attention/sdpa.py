"""Shifted-window attention on PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from swin_dense.ops.window_attention import windows
from swin_dense.ops.window_attention.reference import from_windows, to_windows

# Flash takes no mask and cuDNN none that needs a gradient (and misreads some padded ones).
_BACKENDS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# The memory-efficient kernel counts batch and heads in 16 bits of the launch grid.
_LARGEST_GRID = 65_535


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
    """Equal to :func:`.reference.shifted_window_attention` up to rounding.

    The row of scores never leaves the kernel, except where PyTorch falls back to plain
    arithmetic (on a CPU). Arguments and result are those of
    :func:`~.api.shifted_window_attention`.
    """
    b, h, w, _ = qkv.shape
    q, k, v = to_windows(qkv, qkv_bias, num_heads, window_size, shift_size)
    n_windows, n_tokens = q.shape[1], q.shape[3]
    mask: Tensor | None
    if shift_size:
        # Windows differ in their mask and images do not: windows count as heads, so that one
        # mask serves all images with stride 0.
        size = windows.padded_size(h, w, window_size)
        scores = windows.shift_mask(*size, window_size, shift_size, q.device, q.dtype)[:, None]
        if position_bias is not None:
            scores = scores + position_bias.to(q.dtype)
        mask = scores.expand(-1, num_heads, -1, -1).flatten(0, 1)
        q, k, v = (t.flatten(1, 2) for t in (q, k, v))
    else:
        mask = None if position_bias is None else position_bias.to(q.dtype)
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    if mask is not None:
        mask = aligned(mask)
    out = attend(q, k, v, mask, scale, dropout_p)
    out = out.view(b, n_windows, num_heads, n_tokens, -1)
    return from_windows(out, h, w, window_size, shift_size)


def aligned(mask: Tensor) -> Tensor:
    """Copy ``(..., N, N)`` so that its rows start at multiples of 8, as the fast kernel asks."""
    n = mask.shape[-1]
    return F.pad(mask, (0, -n % 8))[..., :n]


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout_p: float
) -> Tensor:
    """Attention of q, k, v ``(batch, heads, N, d)`` with a mask ``(heads, N, N)`` for all."""
    if max(q.shape[:2]) > _LARGEST_GRID:
        dim = 0 if q.shape[0] > _LARGEST_GRID else 1
        qs, ks, vs = (t.split(_LARGEST_GRID, dim) for t in (q, k, v))
        masks = [mask] * len(qs) if mask is None or dim == 0 else mask.split(_LARGEST_GRID)
        parts = zip(qs, ks, vs, masks, strict=True)
        return torch.cat([attend(*part, scale, dropout_p) for part in parts], dim)
    if mask is not None:
        mask = mask.expand(q.shape[0], -1, -1, -1)
    with sdpa_kernel(_BACKENDS):
        return F.scaled_dot_product_attention(q, k, v, mask, dropout_p, scale=scale)
