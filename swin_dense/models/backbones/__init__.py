"""Backbones made of mmdet's; importing them registers them under the scope ``swin_dense``."""

from swin_dense.models.backbones.global_resnext import GlobalResNeXt

__all__ = ["GlobalResNeXt"]
