"""Shifted-window multi-head self-attention; :mod:`.api` checks its input and chooses a backend."""

from swin_dense.ops.window_attention.api import check_impl, shifted_window_attention

__all__ = ["check_impl", "shifted_window_attention"]
