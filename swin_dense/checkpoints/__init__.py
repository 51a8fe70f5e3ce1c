"""Swin weights from elsewhere: files, layouts, resizing, loading, conversion."""

from swin_dense.checkpoints.conversion import convert
from swin_dense.checkpoints.files import (
    cached_path,
    load_checkpoint,
    local_file,
    strip_prefixes,
    weights_of,
)
from swin_dense.checkpoints.layouts import OFFICIAL, TARGETS, find_backbone
from swin_dense.checkpoints.loading import (
    LoadableBackbone,
    LoadReport,
    convert_and_resize,
    convert_before_loading,
    convert_checkpoint,
    load_backbone,
    load_converted,
    no_conversion,
)
from swin_dense.checkpoints.resizing import resize_absolute_pos_embed

__all__ = [
    "OFFICIAL",
    "TARGETS",
    "LoadReport",
    "LoadableBackbone",
    "cached_path",
    "convert",
    "convert_and_resize",
    "convert_before_loading",
    "convert_checkpoint",
    "find_backbone",
    "load_backbone",
    "load_checkpoint",
    "load_converted",
    "local_file",
    "no_conversion",
    "resize_absolute_pos_embed",
    "strip_prefixes",
    "weights_of",
]
