"""Swin weights from elsewhere: layouts, resizing, loading, conversion."""

from swin_dense.checkpoints.conversion import convert
from swin_dense.checkpoints.files import cached_path, load_checkpoint, local_file
from swin_dense.checkpoints.layouts import OFFICIAL, OPENMMLAB, TARGETS, find_backbone
from swin_dense.checkpoints.loading import (
    LoadableBackbone,
    LoadReport,
    NativeWeights,
    convert_and_resize,
    convert_before_loading,
    convert_state_dict,
    load_backbone,
    no_conversion,
)
from swin_dense.checkpoints.resizing import (
    resize_absolute_pos_embed,
    resize_bias_table,
    resize_input_channels,
)
from swin_dense.checkpoints.wrappers import strip_prefixes, weights_of

__all__ = [
    "OFFICIAL",
    "OPENMMLAB",
    "TARGETS",
    "LoadReport",
    "LoadableBackbone",
    "NativeWeights",
    "cached_path",
    "convert",
    "convert_and_resize",
    "convert_before_loading",
    "convert_state_dict",
    "find_backbone",
    "load_backbone",
    "load_checkpoint",
    "local_file",
    "no_conversion",
    "resize_absolute_pos_embed",
    "resize_bias_table",
    "resize_input_channels",
    "strip_prefixes",
    "weights_of",
]
