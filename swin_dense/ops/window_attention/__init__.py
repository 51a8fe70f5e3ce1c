"""Shifted-window multi-head self-attention; :mod:`.api` checks its input and chooses a backend."""

from swin_dense.ops.window_attention.api import position_bias, shifted_window_attention

__all__ = ["position_bias", "shifted_window_attention"]
