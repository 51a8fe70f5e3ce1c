"""timm since 0.9: patch merging is the first layer of a stage, not the last of the one before.

With ``features_only=True`` stages are ``layers_0`` instead of ``layers.0``.
"""

import re

from swin_dense.checkpoints.layouts.base import Layout, State
from swin_dense.checkpoints.layouts.official import ANCHOR, BLOCKS

_TABLE = (
    *BLOCKS,
    ("stages.{i}.downsample.*", "layers.{i+1}.downsample.*"),
    ("stages.{i}.*", "layers.{i}.*"),
)


def _merging_is_first_in_stage(state: State) -> bool:
    """Whether all stages but the first have patch merging; in the official layout, the last."""
    names = (re.match(r"layers[._](\d+)\.downsample\.", name) for name in state)
    stages = {int(found[1]) for found in names if found}
    return bool(stages) and 0 not in stages


TIMM = Layout(
    name="timm",
    anchor=ANCHOR,
    # Weights are written by the first pattern of their name.
    table=(*_TABLE, *((ours, theirs.replace("layers.", "layers_")) for ours, theirs in _TABLE)),
    accepts=_merging_is_first_in_stage,
    classification_only=True,
)
