"""timm since 0.9: patch merging stands at the start of the stage that it leads to.

With ``features_only=True`` stages are ``layers_0`` instead of ``layers.0``.
"""

from __future__ import annotations

from swin_dense.checkpoints.layouts.base import Layout
from swin_dense.checkpoints.layouts.official import ANCHOR, BLOCKS

_TABLE = (
    *BLOCKS,
    ("stages.{i}.downsample.*", "layers.{i+1}.downsample.*"),
    ("stages.{i}.*", "layers.{i}.*"),
)

TIMM = Layout(
    name="timm",
    anchor=ANCHOR,
    # The first row of a name is what it is written as.
    table=(*_TABLE, *((ours, theirs.replace("layers.", "layers_")) for ours, theirs in _TABLE)),
)
