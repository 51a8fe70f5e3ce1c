"""Swin weights from elsewhere: files, layouts, resizing, loading, conversion."""

from swin_dense.checkpoints.contents import dataset_meta
from swin_dense.checkpoints.conversion import convert
from swin_dense.checkpoints.downloads import download
from swin_dense.checkpoints.files import (
    cached_path,
    check_weights,
    load_checkpoint,
    local_file,
    weights_of,
)
from swin_dense.checkpoints.layouts import TARGETS, find_backbone
from swin_dense.checkpoints.loading import (
    LoadableBackbone,
    LoadReport,
    convert_checkpoint,
    load_backbone,
    load_converted,
    no_conversion,
)

__all__ = [
    "TARGETS",
    "LoadReport",
    "LoadableBackbone",
    "cached_path",
    "check_weights",
    "convert",
    "convert_checkpoint",
    "dataset_meta",
    "download",
    "find_backbone",
    "load_backbone",
    "load_checkpoint",
    "load_converted",
    "local_file",
    "no_conversion",
    "weights_of",
]
