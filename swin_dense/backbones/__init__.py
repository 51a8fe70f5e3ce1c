"""Backbones; importing them registers them under the scope ``swin_dense``."""

from swin_dense.backbones.deit import DeiT
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.backbones.swin_mlp import SwinMLP
from swin_dense.backbones.swin_v2 import SwinTransformerV2

__all__ = ["DeiT", "SwinMLP", "SwinTransformer", "SwinTransformerV2"]
