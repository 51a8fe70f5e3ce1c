"""Launches LayerNorms that also move tokens or channels: output maps, patch embedding and merging.

Functions on ``(B, H, W, C)``, without autograd, see :mod:`.map_kernels` for the orders. Norms are
in fp32, as are gradients of weights and biases.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from swin_dense.ops.block.layers import Norm
from swin_dense.ops.block.triton import map_kernels
from swin_dense.ops.block.triton.launch import check, contiguous, launch, resident
from swin_dense.ops.block.triton.support import unsupported_reason

_ROWS, _CHANNELS_FIRST, _MERGED = "rows", "channels first", "merged"


def map_schedule(direction: str, channels: int, channels_first: bool) -> dict[str, int]:
    """Tile and warps: 16 numbers a thread forward, 4 backward where 16 warps are enough.

    Neighbouring tokens of a channel are read or written together where channels are first: 8 of
    them are 32 bytes in fp32, the least that memory moves. Chosen as those of other norms.
    """
    columns = triton.next_power_of_2(channels)
    least = min(8, max(1, 4096 // columns)) if channels_first else 1
    rows = max((2048 if direction == "forward" else 1024) // columns, least)
    warps = rows * columns // (512 if direction == "forward" else 128)
    return {"COLUMNS": columns, "ROWS": rows, "num_warps": min(max(4, warps), 16)}


def layer_norm_map(x: Tensor, norm: Norm, dtype: torch.dtype, channels_first: bool) -> Tensor:
    """LayerNorm in ``dtype``: ``(B, H, W, C)`` of any strides to that or ``(B, C, H, W)``."""
    b, h, w, c = x.shape
    x, order = _ordered(x)
    out = x.new_empty((b, c, h, w) if channels_first else (b, h, w, c), dtype=dtype)
    _forward(x, norm, out, _tokens(x, order, _CHANNELS_FIRST if channels_first else _ROWS))
    return out


def layer_norm_map_backward(
    d_out: Tensor, x: Tensor, norm: Norm, channels_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`layer_norm_map`'s x, with its strides, and of the norm's parameters."""
    x, order = _ordered(x)
    d_out, d_order = _ordered(d_out.permute(0, 2, 3, 1) if channels_first else d_out)
    return _backward(d_out, x, norm, None, _tokens(x, order, d_order))


def merged_layer_norm(x: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    """LayerNorm of 2 x 2 neighbours in ``dtype``, ``(B, ceil(H / 2), ceil(W / 2), 4C)``.

    Neighbours follow each other, C channels each. In the norm's parameters, those of a channel are
    adjacent.
    """
    b, h, w, c = x.shape
    out = x.new_empty(b, (h + 1) // 2, (w + 1) // 2, 4 * c, dtype=dtype)
    _forward(x.contiguous(), norm, out, _tokens(x, _MERGED, _ROWS))
    return out


def merged_layer_norm_backward(
    d_out: Tensor, x: Tensor, norm: Norm, d_residual: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`merged_layer_norm`'s x, with that by another path, and parameters."""
    x = x.contiguous()
    return _backward(d_out.contiguous(), x, norm, d_residual, _tokens(x, _MERGED, _ROWS))


class _Tokens(NamedTuple):
    """Groups of tokens as the kernels take them, and the orders of their channels."""

    groups: int
    length: int
    height: int
    width: int
    channels: int
    x_order: str
    out_order: str

    def schedule(self, direction: str) -> dict[str, int]:
        channels_first = _CHANNELS_FIRST in (self.x_order, self.out_order)
        return map_schedule(direction, self.channels, channels_first)

    def blocks(self, schedule: dict[str, int]) -> int:
        return self.groups * triton.cdiv(self.length, schedule["ROWS"])

    def constants(self) -> dict[str, Any]:
        return {"C": self.channels, "X_ORDER": self.x_order, "OUT_ORDER": self.out_order}


def _tokens(x: Tensor, x_order: str, out_order: str) -> _Tokens:
    b, h, w, c = x.shape
    if x_order == _MERGED:
        return _Tokens(b * ((h + 1) // 2), (w + 1) // 2, h, w, 4 * c, x_order, out_order)
    return _Tokens(b, h * w, h, w, c, x_order, out_order)


def _ordered(x: Tensor) -> tuple[Tensor, str]:
    """A map ``(B, H, W, C)`` in one of the orders, and which; copied if it is in neither."""
    if not x.is_contiguous() and x.permute(0, 3, 1, 2).is_contiguous():
        return x, _CHANNELS_FIRST
    return x.contiguous(), _ROWS


def _forward(x: Tensor, norm: Norm, out: Tensor, tokens: _Tokens) -> None:
    check("layer_norm_map", unsupported_reason(x.new_empty(0, tokens.channels), out.dtype))
    schedule = tokens.schedule("forward")
    programs = tokens.blocks(schedule)
    inputs = [x, *contiguous(*norm[:2]), out, *tokens[1:4], programs, float(norm.eps)]
    if programs:
        launch(map_kernels.map_norm, programs, x, inputs, **tokens.constants(), **schedule)


def _backward(
    d_out: Tensor, x: Tensor, norm: Norm, d_residual: Tensor | None, tokens: _Tokens
) -> tuple[Tensor, Tensor, Tensor]:
    check("layer_norm_map_backward", unsupported_reason(x.new_empty(0, tokens.channels), x.dtype))
    dx = torch.empty_like(x)
    if d_residual is not None and d_residual.stride() != dx.stride():
        d_residual = torch.empty_like(dx).copy_(d_residual)
    schedule = tokens.schedule("backward")
    blocks = tokens.blocks(schedule)
    programs = resident(x, blocks, schedule)
    sums = torch.empty(2, programs, tokens.channels, dtype=torch.float32, device=x.device)
    inputs = [d_out, x, norm.weight.contiguous(), d_residual, dx, *sums]
    inputs += [*tokens[1:4], blocks, float(norm.eps)]
    launch(map_kernels.map_norm_backward, programs, x, inputs, **tokens.constants(), **schedule)
    d_weight, d_bias = sums.sum(1)
    return dx, d_weight, d_bias
