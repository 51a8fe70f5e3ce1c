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

# Other Swins, by what only they have. Swin-MoE may have that of V2 too.
_OTHER_SWINS = {
    "Swin-MoE": re.compile(r"\.(_?moe_layer|experts|gates)\."),
    "Swin Transformer V2": re.compile(
        r"\.(logit_scale|cpb_mlp|continuous_position_bias_mlp)(\.|$)"
    ),
}
_STUDENT, _TEACHER = re.compile(r"(^|\.)student\."), re.compile(r"(^|\.)teacher\.")


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

    A teacher comes before its student, as in mmdet's predictions with Soft Teacher.

    Raises:
        UserError: it is a Swin Transformer V2 or a Swin-MoE.
    """
    names = list(state)
    if any(map(_TEACHER.search, names)):
        names.sort(key=lambda name: _STUDENT.search(name) is not None)
    for name in names:
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
    for kind, pattern in _OTHER_SWINS.items():
        if any(map(pattern.search, own)):
            raise UserError(f"these are weights of {kind}: give weights of the first Swin")
    return BackboneMatch(layout, outer, own, others)
