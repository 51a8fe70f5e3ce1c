"""Backbones; importing them registers them under the scope ``swin_dense``."""

from swin_dense.backbones.deit import DeiT
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.backbones.swin_v2 import SwinTransformerV2

__all__ = ["DeiT", "SwinTransformer", "SwinTransformerV2"]
