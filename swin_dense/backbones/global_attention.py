"""Self-attention of every token with every other: the extra layer of HTC++ (section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# The fused kernels never hold the scores: 2200 tokens of a 1600-pixel image have 5 million a head.
_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class GlobalAttention(nn.Module):
    """Multi-head self-attention over a whole map: ``(B, H, W, C) -> (B, H, W, C)``.

    It has no position bias, because a table of offsets would fix the size of the map.
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
