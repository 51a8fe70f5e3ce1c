"""Sliding-window self-attention: every token attends to the k x k tokens around it.

The window of a token is centred on it, so keys differ from token to token. The paper compares this
with shifted windows (tables 5 and 6). Arithmetic as in the authors' code of LR-Net ("local
relation networks", branch LR-Net of https://github.com/microsoft/Swin-Transformer): a bias for
every head and offset; places outside the feature map have a score of -100, and a value of 0.

Keys are gathered for tiles of tokens, each with the border that its tokens need. A tile of one
token is the naive form, which copies every key k * k times. A tile of k x k tokens copies it about
four times, computes all scores within a tile and its border and masks those that are too far.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.dispatch import AttnImpl
from swin_dense.ops.window_attention import sdpa, windows

_OUTSIDE = -100.0
# Channels are added by this number: PyTorch's kernels want multiples of it.
_ALIGNED = 8


def sliding_window_attention(
    qkv: Tensor,
    position_bias: Tensor | None,
    *,
    num_heads: int,
    window_size: int,
    scale: float,
    dropout_p: float = 0.0,
    impl: str | AttnImpl = "auto",
) -> Tensor:
    """Self-attention of every token with its neighbourhood, on a feature map of any size.

    Args:
        qkv: ``(B, H, W, 3 * C)``: queries, keys and values of every token, each C channels in
            ``num_heads`` groups. H, W >= 1.
        position_bias: ``(k * k, num_heads)``, added to the scores: row (i * k + j) is of the key
            i - k // 2 rows below and j - k // 2 columns to the right; None for none.
        num_heads: number of heads; C is a multiple of it.
        window_size: side k of the neighbourhood in tokens, odd.
        scale: factor of the dot products.
        dropout_p: probability that an attention weight is dropped.
        impl: 'reference' is the naive form; all others are tiles on PyTorch's fused attention.

    Returns:
        ``(B, H, W, C)``, heads side by side.

    Raises:
        ValueError: shapes, window or implementation are not as above.
    """
    name = (impl if isinstance(impl, AttnImpl) else AttnImpl.parse(impl)).name
    if window_size % 2 != 1:
        raise ValueError(f"the window around a token has an odd side, got {window_size}")
    if qkv.ndim != 4 or qkv.shape[-1] % (3 * num_heads):
        raise ValueError(
            f"qkv must be (B, H, W, 3 * C) with C a multiple of num_heads={num_heads}, "
            f"got {tuple(qkv.shape)}"
        )
    expected = (window_size**2, num_heads)
    if position_bias is not None and position_bias.shape != expected:
        raise ValueError(f"position_bias must be {expected}, got {tuple(position_bias.shape)}")
    q, k, v = qkv.chunk(3, dim=-1)
    form = _naive if name == "reference" else _tiled
    return form(q * scale, k, v, position_bias, num_heads, window_size, dropout_p)


def _naive(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, num_heads: int, window_size: int,
    dropout_p: float,
) -> Tensor:  # fmt: skip
    b, h, w, _ = q.shape
    keys, values = (_with_border(x, 1, window_size, num_heads) for x in (k, v))
    scores = _of_tiles(q, 1, num_heads) @ keys.transpose(-2, -1)  # (B * H * W, heads, 1, k * k)
    outside = k.new_full((1, h, w, 1), 0.0)
    outside = _with_border(outside, 1, window_size, 1, _OUTSIDE).transpose(-2, -1)
    scores = scores.unflatten(0, (b, -1)) + outside
    if bias is not None:
        scores = scores + bias.t()[:, None]
    weights = F.dropout(scores.softmax(dim=-1).to(v.dtype), dropout_p)
    return (weights.flatten(0, 1) @ values).view(b, h, w, -1)


def _tiled(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, num_heads: int, window_size: int,
    dropout_p: float,
) -> Tensor:  # fmt: skip
    b, h, w, c = q.shape
    tile = window_size
    # A channel more adds the score of places outside: it is 1 in queries, -100 in those keys. So
    # all tiles have the same mask.
    more = (b, h, w, num_heads, _ALIGNED)
    one = torch.eye(1, _ALIGNED, dtype=q.dtype, device=q.device).expand(more)
    q = torch.cat([q.unflatten(-1, (num_heads, -1)), one], dim=-1).flatten(-2)
    k = torch.cat([k.unflatten(-1, (num_heads, -1)), torch.zeros_like(one)], dim=-1).flatten(-2)
    keys = _with_border(k, tile, window_size, num_heads)
    inside = _with_border(k.new_ones(1, h, w, 1), tile, window_size, 1)
    outside = F.pad(_OUTSIDE * (1 - inside), (c // num_heads, _ALIGNED - 1))
    keys = (keys.unflatten(0, (b, -1)) + outside).flatten(0, 1)
    values = _with_border(v, tile, window_size, num_heads)
    queries = _of_tiles(q, tile, num_heads)
    mask = _mask(bias, tile, window_size, num_heads, q)
    out = sdpa.attend(queries, keys, values, mask, 1.0, dropout_p)
    out = out.transpose(1, 2).flatten(2).unflatten(0, (b, -1))
    return windows.merge(out, *windows.padded_size(h, w, tile))[:, :h, :w]


def _of_tiles(x: Tensor, tile: int, num_heads: int) -> Tensor:
    """``(B, H, W, C)`` to its tiles' tokens, ``(B * tiles, heads, tile^2, C / heads)``."""
    h, w = x.shape[1:3]
    x = windows.partition(F.pad(x, (0, 0, 0, -w % tile, 0, -h % tile)), tile)
    return x.flatten(0, 1).unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _with_border(
    x: Tensor, tile: int, window_size: int, num_heads: int, fill: float = 0.0
) -> Tensor:
    """As :func:`_of_tiles`, each tile with ``window_size // 2`` tokens around it."""
    h, w = x.shape[1:3]
    border = window_size // 2
    side = tile + 2 * border
    x = F.pad(x, (0, 0, border, border + -w % tile, border, border + -h % tile), value=fill)
    x = x.unfold(1, side, tile).unfold(2, side, tile).flatten(0, 2)  # (B * tiles, C, side, side)
    return x.unflatten(1, (num_heads, -1)).flatten(3).transpose(-2, -1)


def _mask(bias: Tensor | None, tile: int, window_size: int, num_heads: int, like: Tensor) -> Tensor:
    """Bias of every token of a tile and token of it with its border; -inf if they are too far."""
    query = torch.arange(tile, device=like.device)
    key = torch.arange(tile + window_size - 1, device=like.device)
    offset = key - query[:, None]  # 0 ... k - 1 within the neighbourhood
    near = (offset >= 0) & (offset < window_size)
    near = (near[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)
    row = (offset[:, None, :, None] * window_size + offset[None, :, None, :]).flatten(2)
    row = row.flatten(0, 1).where(near, 0)
    if bias is None:
        bias = like.new_zeros(window_size**2, num_heads)
    table = bias.t().to(like.dtype)[:, row.flatten()].view(num_heads, *row.shape)
    return table.masked_fill(~near, -torch.inf)
