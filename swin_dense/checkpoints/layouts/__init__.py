"""Layouts of Swin weights, each in a file here, and finding a backbone in a state dict."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from swin_dense.checkpoints.layouts import hugging_face, second_version
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

_SECOND_VERSION = re.compile(r"\.(logit_scale|(cpb|rpe|continuous_position_bias)_mlp)(\.|$)")
# What has the names of a Swin backbone and is none.
_OTHERS = {
    r"\.(_?moe_layer|experts|gates)\.": "Swin-MoE",
    r"\.attn\.meta_mlp\.": "swinv2_cr, timm's own architecture",
    r"(^|\.)layers\.\d+\.rel_pos_bias\.": "a Swin V2 whose blocks share a position bias",
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
        version: 1, or 2 of Swin Transformer V2.
    """

    layout: Layout
    prefix: str
    state: State
    other_weights: State
    version: int = 1


def find_backbone(state: Mapping[str, Tensor]) -> BackboneMatch | None:
    """The first Swin backbone in a state dict, below any prefix; None if there is none.

    A teacher comes before its student, as in mmdet's predictions with Soft Teacher.

    Raises:
        UserError: it is of an architecture that only looks like Swin.
    """
    names = list(state)
    if any(map(_TEACHER.search, names)):
        names.sort(key=lambda name: _STUDENT.search(name) is not None)
    for name in names:
        for layout in LAYOUTS:
            prefix = layout.prefix(name)
            if prefix is not None:
                match = _split(state, layout, prefix)
                if match.layout.accepts(match.state):
                    return match
    return None


def of_version(layout: Layout, version: int) -> Layout:
    """The layout of the same library's Swin of this version."""
    return layout if version == 1 else second_version.BY_NAME[layout.name]


def _split(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> BackboneMatch:
    """The weights of the backbone below ``prefix``, apart from the others."""
    version = _version([name for name in state if name.startswith(prefix)])
    layout = of_version(layout, version)
    inner = next((p for p in layout.inner_prefixes if f".{prefix}".endswith(f".{p}")), "")
    outer = prefix.removesuffix(inner)
    below = [name for name in state if name.startswith(outer)]
    own = {name.removeprefix(outer).removeprefix(inner): state[name] for name in below}
    others = {name: value for name, value in state.items() if not name.startswith(outer)}
    return BackboneMatch(layout, outer, own, others, version)


def _version(names: list[str]) -> int:
    """Of the Swin with these names; an error for what only looks like Swin."""
    for pattern, what in _OTHERS.items():
        if any(re.search(pattern, name) for name in names):
            raise UserError(f"these are weights of {what}: give weights of a Swin Transformer")
    if not any(_SECOND_VERSION.search(name) for name in names):
        return 1
    if not any(name.endswith(".logit_scale") for name in names):
        raise UserError(
            "these are weights of Swin-MoE or its dense baseline, which have a position bias of "
            "Swin V2 without its cosine attention: give weights of a Swin Transformer"
        )
    return 2
