"""Shifted-window attention for torch.compile and torch.export: one graph for inputs of any size.

The size of the feature map appears in index arithmetic only: no branch asks whether something is
padded, no mask comes from a cache, and no operator depends on whether there is more than one
window. Each of these would specialise the graph to the sizes that it was traced with.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.window_attention.windows import WindowSpec, padded_size

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float, float], Tensor]


class _Places(NamedTuple):
    """Where tokens of the feature map stand in its windows, both counted row by row."""

    token: Tensor  # (nW * N,): the token at a place of the windows, -1 for padding
    place: Tensor  # (H * W,): the place of a token in the windows
    region: Tensor  # (nW * N,): the tokens of a window attend to their own region (figure 4)


def _places(height: int, width: int, window_size: int, shift: int, device: torch.device) -> _Places:
    # All of it on flat ranges: of a grid, each side might be 1. Nothing modulo a size of the input,
    # for which ONNX's exporter has no operator.
    m, n = window_size, window_size**2
    padded_h, padded_w = padded_size(height, width, m)
    columns = padded_w // m
    place = torch.arange(padded_h * padded_w, device=device)
    window, inner = place // n, place % n
    row = window // columns
    y, x = row * m + inner // m, (window - row * columns) * m + inner % m
    region = 2 * (y >= padded_h - shift).long() + (x >= padded_w - shift).long()
    y, x = y + shift, x + shift
    y, x = torch.where(y < padded_h, y, y - padded_h), torch.where(x < padded_w, x, x - padded_w)
    token = torch.where((y < height) & (x < width), y * width + x, -1)

    at = torch.arange(height * width, device=device)
    row = at // width
    y, x = row - shift, at - row * width - shift
    y, x = torch.where(y < 0, y + padded_h, y), torch.where(x < 0, x + padded_w, x)
    return _Places(token, (y // m * columns + x // m) * n + y % m * m + x % m, region)


class _Move(torch.autograd.Function):
    """Rows of ``(B, rows, C)`` to other places, zeros where there is -1.

    With the places that lead back, so that gradients take a gather too, not atomic sums.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, back: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows, back)
        return torch.where((rows >= 0)[:, None], x.index_select(1, rows.clamp(min=0)), 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        rows, back = ctx.saved_tensors
        return _Move.apply(grad, back, rows), None, None


def shifted_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    spec: WindowSpec,
    dropout_p: float = 0.0,
    *,
    attend: Attend,
) -> Tensor:
    """Equal to :func:`.reference.shifted_window_attention` up to rounding.

    Arguments and result are those of :func:`~.api.shifted_window_attention`; ``attend`` computes
    attention of q, k, v ``(batch, groups, N, d)`` with one mask ``(groups, N, N)`` for all.
    """
    b, h, w, c3 = qkv.shape
    num_heads, m, shift_size, scale = spec
    n, d = m * m, c3 // (3 * num_heads)
    padded_h, padded_w = padded_size(h, w, m)
    n_windows = (padded_h // m) * (padded_w // m)

    at = _places(h, w, m, shift_size, qkv.device)
    rows = _Move.apply(qkv.flatten(1, 2), at.token, at.place)
    if qkv_bias is not None:
        rows = torch.where((at.token < 0)[:, None], qkv_bias.to(rows.dtype), rows)
    split = rows.view(b, n_windows, n, 3, num_heads, d).permute(3, 0, 1, 4, 2, 5).contiguous()
    # One mask serves all windows, or, where windows differ in it, all images.
    batch, groups = (b, n_windows * num_heads) if shift_size else (b * n_windows, num_heads)
    q, k, v = split.view(3, batch, groups, n, d).unbind(0)
    mask = _mask(at.region.view(n_windows, n), position_bias, num_heads) if shift_size else None
    out = attend(q, k, v, mask if shift_size else position_bias, scale, dropout_p)
    out = out.view(b, n_windows, num_heads, n, d).transpose(2, 3).contiguous()
    out = _Move.apply(out.view(b, n_windows * n, c3 // 3), at.place, at.token)
    return out.view(b, h, w, c3 // 3)


def _mask(region: Tensor, position_bias: Tensor | None, num_heads: int) -> Tensor:
    """Mask of the regions ``(nW, N)`` with the bias ``(heads, N, N)``: ``(nW * heads, N, N)``."""
    apart = (region[:, :, None] != region[:, None, :])[:, None]
    # -100 and not -inf, as in the official code.
    if position_bias is None:
        mask = torch.where(apart, -100.0, 0.0).expand(-1, num_heads, -1, -1)
    else:
        mask = torch.where(apart, position_bias - 100.0, position_bias)
    return mask.flatten(0, 1)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout_p: float
) -> Tensor:
    """Attention in plain PyTorch, as :func:`shifted_window_attention` describes it."""
    scores = torch.bmm(q.flatten(0, 1) * scale, k.flatten(0, 1).transpose(1, 2))
    scores = scores.view(*q.shape[:3], q.shape[2])
    if mask is not None:
        scores = scores + mask
    weights = F.dropout(scores.softmax(dim=-1).to(v.dtype), dropout_p)
    return torch.bmm(weights.flatten(0, 1), v.flatten(0, 1)).view(q.shape)
