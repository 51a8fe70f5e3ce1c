"""Key layouts of Swin weights: finding the backbone in a state dict, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from swin_dense.checkpoints.layouts import hugging_face
from swin_dense.checkpoints.layouts.base import Layout, State
from swin_dense.checkpoints.layouts.official import OFFICIAL
from swin_dense.checkpoints.layouts.openmmlab import OPENMMLAB
from swin_dense.checkpoints.layouts.timm import TIMM
from swin_dense.checkpoints.layouts.torchvision import TORCHVISION
from swin_dense.errors import UserError

LAYOUTS = (OPENMMLAB, OFFICIAL, TIMM, hugging_face.HUB, hugging_face.MODULES, TORCHVISION)

_SECOND_VERSION = re.compile(r"\.(logit_scale|cpb_mlp|continuous_position_bias_mlp)(\.|$)")


@dataclass(frozen=True)
class Found:
    """A Swin backbone in a state dict.

    Args:
        layout: of its names.
        prefix: what stood before them: ``backbone.`` in a detector.
        state: its weights, without the prefix, in their own layout.
        rest: the other weights, under their full names.
    """

    layout: Layout
    prefix: str
    state: State
    rest: State

    def in_openmmlab(self) -> State:
        """The backbone's weights in OpenMMLab's layout."""
        return self.layout.to_openmmlab(self.state)


def find_backbone(state: Mapping[str, Tensor]) -> Found | None:
    """The first Swin backbone in a state dict, below whatever prefix; None if there is none.

    Raises:
        UserError: it is a Swin Transformer V2.
    """
    for name in state:
        for layout in LAYOUTS:
            prefix = layout.prefix(name)
            if prefix is not None:
                return _found(state, layout, prefix)
    return None


def _found(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> Found:
    inner = next((i for i in layout.inner if f".{prefix}".endswith(f".{i}")), "")
    outer = prefix.removesuffix(inner)
    own: State = {}
    rest: State = {}
    for name, value in state.items():
        if name.startswith(outer):
            own[name.removeprefix(outer).removeprefix(inner)] = value
        else:
            rest[name] = value
    if any(_SECOND_VERSION.search(name) for name in own):
        raise UserError("these are weights of Swin Transformer V2: give weights of the first Swin")
    if layout is OFFICIAL and _merging_leads_in(own):
        layout = TIMM
    return Found(layout, outer, own, rest)


def _merging_leads_in(names: Iterable[str]) -> bool:
    """Whether patch merging stands in the stage that it leads to: all but the first have it."""
    stages = {
        int(found[2])
        for name in names
        if (found := re.match(r"layers(\.|_)(\d+)\.downsample\.", name))
    }
    return bool(stages) and 0 not in stages


__all__ = [
    "LAYOUTS",
    "OFFICIAL",
    "OPENMMLAB",
    "TIMM",
    "TORCHVISION",
    "Found",
    "Layout",
    "State",
    "find_backbone",
    "hugging_face",
]
