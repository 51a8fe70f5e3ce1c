"""The attention layers of Swin's blocks: within windows, and over the whole map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from swin_dense.ops.window_attention import shifted_window_attention
from swin_dense.ops.window_attention.position_bias import position_bias
from swin_dense.ops.window_attention.windows import relative_position_index

# The fused kernels never hold the scores: 2200 tokens of a 1600-pixel image have 5 million a head.
_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class WindowAttention(nn.Module):
    """Multi-head self-attention in (shifted) windows with relative position bias (equation 4)."""

    relative_position_index: Tensor

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        shift_size: int,
        *,
        qkv_bias: bool,
        scale: float,
        use_rel_pos_bias: bool,
        attn_drop_rate: float,
        drop_rate: float,
        attn_impl: str,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = shift_size
        self.scale = scale
        self.attn_drop_rate = attn_drop_rate
        self.attn_impl = attn_impl
        self.relative_position_bias_table: nn.Parameter | None = None
        if use_rel_pos_bias:
            table = torch.zeros((2 * window_size - 1) ** 2, num_heads)
            self.relative_position_bias_table = nn.Parameter(table)
            self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(drop_rate)

    def position_bias(self) -> Tensor | None:
        """``(heads, N, N)``, the table's entries for every pair of tokens; None without a table."""
        if self.relative_position_bias_table is None:
            return None
        return position_bias(self.relative_position_bias_table, self.relative_position_index)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        return self.proj_drop(self.proj(self.attend(self.qkv(x))))

    def attend(self, qkv: Tensor) -> Tensor:
        """Attention alone: ``(B, H, W, 3C)`` of the qkv layer to ``(B, H, W, C)``."""
        return shifted_window_attention(
            qkv,
            self.qkv.bias,
            self.position_bias(),
            num_heads=self.num_heads,
            window_size=self.window_size,
            shift_size=self.shift_size,
            scale=self.scale,
            dropout_p=self.attn_drop_rate if self.training else 0.0,
            impl=self.attn_impl,
        )


class GlobalAttention(nn.Module):
    """Multi-head self-attention of every token with every other: the extra layer of HTC++.

    Section 4.2 of the paper names the layer and says no more; the published sizes are those of a
    whole block around it. It has no position bias, as a table of offsets would fix the map's size.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        qkv_bias: bool,
        scale: float,
        attn_drop_rate: float,
        drop_rate: float,
        attn_impl: str,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.attn_drop_rate = attn_drop_rate
        self.backends = [SDPBackend.MATH] if attn_impl == "reference" else _FUSED
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout_p = self.attn_drop_rate if self.training else 0.0
        with sdpa_kernel(self.backends):
            out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=self.scale)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(x.shape)))
