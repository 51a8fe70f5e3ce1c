"""Layouts of Swin weights, each in a file here, and finding a backbone in a state dict."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from swin_dense.checkpoints.layouts import hugging_face
from swin_dense.checkpoints.layouts.base import Layout, State
from swin_dense.checkpoints.layouts.official import OFFICIAL
from swin_dense.checkpoints.layouts.openmmlab import OPENMMLAB
from swin_dense.checkpoints.layouts.timm import TIMM
from swin_dense.checkpoints.layouts.torchvision import TORCHVISION
from swin_dense.errors import UserError

# What can be read; the first layout that accepts a state dict is taken.
LAYOUTS = (OPENMMLAB, TIMM, OFFICIAL, hugging_face.HUB, hugging_face.MODULES, TORCHVISION)

# What can be written. "hf" has the names of the installed transformers.
TARGETS = {
    "openmmlab": OPENMMLAB,
    "official": OFFICIAL,
    "timm": TIMM,
    "hf": hugging_face.of_installed(),
    "hf4": hugging_face.HUB,
    "hf5": hugging_face.MODULES,
    "torchvision": TORCHVISION,
}

_SWIN_V2 = re.compile(r"\.(logit_scale|cpb_mlp|continuous_position_bias_mlp)(\.|$)")


@dataclass(frozen=True)
class BackboneMatch:
    """A Swin backbone found in a state dict.

    Args:
        layout: of its names.
        prefix: what stood before them: ``backbone.`` in a detector.
        state: its weights, without the prefix, in their own layout.
        other_weights: the rest of the state dict, under full names.
    """

    layout: Layout
    prefix: str
    state: State
    other_weights: State


def find_backbone(state: Mapping[str, Tensor]) -> BackboneMatch | None:
    """The first Swin backbone in a state dict, below any prefix; None if there is none.

    Raises:
        UserError: it is a Swin Transformer V2.
    """
    for name in state:
        for layout in LAYOUTS:
            prefix = layout.prefix(name)
            if prefix is not None:
                match = _split(state, layout, prefix)
                if layout.accepts(match.state):
                    return match
    return None


def _split(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> BackboneMatch:
    """The weights of the backbone below ``prefix``, apart from the others."""
    inner = next((p for p in layout.inner_prefixes if f".{prefix}".endswith(f".{p}")), "")
    outer = prefix.removesuffix(inner)
    below = [name for name in state if name.startswith(outer)]
    own = {name.removeprefix(outer).removeprefix(inner): state[name] for name in below}
    others = {name: value for name, value in state.items() if not name.startswith(outer)}
    if any(_SWIN_V2.search(name) for name in own):
        raise UserError("these are weights of Swin Transformer V2: give weights of the first Swin")
    return BackboneMatch(layout, outer, own, others)
