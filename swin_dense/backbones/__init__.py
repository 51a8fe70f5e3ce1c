"""Backbones; importing them registers them under the scope ``swin_dense``."""

from swin_dense.backbones.deit import DeiT
from swin_dense.backbones.swin import SwinTransformer

__all__ = ["DeiT", "SwinTransformer"]
