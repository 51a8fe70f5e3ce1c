"""Swin weights from elsewhere: layouts, resizing, loading."""

from swin_dense.checkpoints.download import cached_path, local_file
from swin_dense.checkpoints.layouts import (
    official_to_openmmlab,
    openmmlab_to_official,
    recognise,
)
from swin_dense.checkpoints.loading import LoadReport, adapt_state_dict, load_backbone, unwrap
from swin_dense.checkpoints.resizing import resize_absolute_pos_embed, resize_bias_table

__all__ = [
    "LoadReport",
    "adapt_state_dict",
    "cached_path",
    "load_backbone",
    "local_file",
    "official_to_openmmlab",
    "openmmlab_to_official",
    "recognise",
    "resize_absolute_pos_embed",
    "resize_bias_table",
    "unwrap",
]
