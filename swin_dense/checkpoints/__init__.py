"""Swin weights from elsewhere: layouts, resizing, loading, conversion."""

from swin_dense.checkpoints.conversion import TARGETS, convert
from swin_dense.checkpoints.download import cached_path, local_file
from swin_dense.checkpoints.layouts import LAYOUTS, OFFICIAL, OPENMMLAB, Layout, find_backbone
from swin_dense.checkpoints.loading import (
    LoadReport,
    adapt,
    adapt_state_dict,
    load_backbone,
)
from swin_dense.checkpoints.resizing import (
    resize_absolute_pos_embed,
    resize_bias_table,
    resize_input_channels,
)
from swin_dense.checkpoints.wrappers import unwrap, weights_of

__all__ = [
    "LAYOUTS",
    "OFFICIAL",
    "OPENMMLAB",
    "TARGETS",
    "Layout",
    "LoadReport",
    "adapt",
    "adapt_state_dict",
    "cached_path",
    "convert",
    "find_backbone",
    "load_backbone",
    "local_file",
    "resize_absolute_pos_embed",
    "resize_bias_table",
    "resize_input_channels",
    "unwrap",
    "weights_of",
]
