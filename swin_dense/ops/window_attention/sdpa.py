"""Shifted-window attention on PyTorch's scaled_dot_product_attention."""

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.torch_versions import SDPBackend, sdpa_kernel
from swin_dense.ops.window_attention import windows
from swin_dense.ops.window_attention.windows import WindowSpec

# Flash takes no mask and cuDNN none that needs a gradient (and misreads some padded ones).
_BACKENDS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# The memory-efficient kernel counts batch and heads in 16 bits of the launch grid.
_LARGEST_GRID = 65_535


def shifted_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    spec: WindowSpec,
    dropout_p: float = 0.0,
) -> Tensor:
    """Equal to :func:`.reference.shifted_window_attention` up to rounding.

    Scores never leave the kernel, except where PyTorch falls back to plain arithmetic (on a
    CPU). Arguments and result are those of :func:`~.api.shifted_window_attention`.
    """
    b, h, w, _ = qkv.shape
    num_heads, _, shift_size, scale = spec
    q, k, v = windows.to_windows(qkv, qkv_bias, spec)
    n_windows, n_tokens = q.shape[1], q.shape[3]
    mask: Tensor | None
    if shift_size:
        # The mask differs between windows, not between images: with windows as heads, one mask
        # serves all images with stride 0.
        scores = windows.shift_mask(h, w, spec, q.device, q.dtype)[:, None]
        if position_bias is not None:
            scores = scores + position_bias.to(q.dtype)
        mask = scores.expand(-1, num_heads, -1, -1).flatten(0, 1)
        q, k, v = (t.flatten(1, 2) for t in (q, k, v))
    else:
        mask = None if position_bias is None else position_bias.to(q.dtype)
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    out = attend(q, k, v, mask, scale, dropout_p)
    out = out.view(b, n_windows, num_heads, n_tokens, -1)
    return windows.from_windows(out, h, w, spec)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout_p: float
) -> Tensor:
    """Attention of q, k, v ``(batch, heads, N, d)`` with one mask ``(heads, N, N)`` for all."""
    if mask is not None:
        # The fast kernel needs rows that start at multiples of 8.
        n = mask.shape[-1]
        mask = F.pad(mask.to(q.dtype), (0, -n % 8))[..., :n]
    return _attend(q, k, v, mask, scale, dropout_p)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout_p: float
) -> Tensor:
    if max(q.shape[:2]) > _LARGEST_GRID:
        dim = 0 if q.shape[0] > _LARGEST_GRID else 1
        qs, ks, vs = (t.split(_LARGEST_GRID, dim) for t in (q, k, v))
        masks = [mask] * len(qs) if mask is None or dim == 0 else mask.split(_LARGEST_GRID)
        parts = zip(qs, ks, vs, masks, strict=True)
        return torch.cat([_attend(*part, scale, dropout_p) for part in parts], dim)
    if mask is not None:
        mask = mask.expand(q.shape[0], -1, -1, -1)
    with sdpa_kernel(_BACKENDS):
        return F.scaled_dot_product_attention(q, k, v, mask, dropout_p, scale=scale)
