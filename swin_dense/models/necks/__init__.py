"""Necks that mmdet 3.3 lacks; importing them registers them under the scope ``swin_dense``."""

from swin_dense.models.necks.bifpn import BiFPN

__all__ = ["BiFPN"]
