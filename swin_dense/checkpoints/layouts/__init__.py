"""Layouts of Swin weights, each in a file here, and finding a backbone in a state dict."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from swin_dense.checkpoints.layouts import hugging_face, second_version, swin_mlp
from swin_dense.checkpoints.layouts.base import Layout, State
from swin_dense.checkpoints.layouts.official import OFFICIAL
from swin_dense.checkpoints.layouts.openmmlab import OPENMMLAB
from swin_dense.checkpoints.layouts.timm import TIMM
from swin_dense.checkpoints.layouts.torchvision import TORCHVISION
from swin_dense.errors import UserError

# What can be read; the first layout that accepts a state dict is taken.
LAYOUTS = (
    *(OPENMMLAB, TIMM, OFFICIAL, hugging_face.HUB, hugging_face.MODULES, TORCHVISION),
    *swin_mlp.BY_NAME.values(),
)

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

SWIN, SWIN_V2, SWIN_MLP = "the first Swin Transformer", "Swin Transformer V2", "Swin-MLP"
_BACKBONES = {SWIN: "SwinTransformer", SWIN_V2: "SwinTransformerV2", SWIN_MLP: "SwinMLP"}
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
        architecture: :data:`SWIN`, :data:`SWIN_V2` or :data:`SWIN_MLP`.
    """

    layout: Layout
    prefix: str
    state: State
    other_weights: State
    architecture: str = SWIN

    def require(self, wanted: str) -> None:
        """Raise UserError unless these are weights of the architecture ``wanted``."""
        if self.architecture != wanted:
            raise UserError(
                f"these are weights of {self.architecture}: use "
                f"type='swin_dense.{_BACKBONES[self.architecture]}', or give weights of {wanted}"
            )


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


def of_architecture(layout: Layout, architecture: str) -> Layout:
    """The layout of the same library for this architecture.

    Raises:
        UserError: the library does not have it.
    """
    layouts = {SWIN_V2: second_version.BY_NAME, SWIN_MLP: swin_mlp.BY_NAME}.get(architecture)
    if layouts is None:
        return layout
    if layout.name not in layouts:
        raise UserError(
            f"layout {layout.name!r} has no {architecture}: choose one of {', '.join(layouts)}"
        )
    return layouts[layout.name]


def _split(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> BackboneMatch:
    """The weights of the backbone below ``prefix``, apart from the others."""
    architecture = SWIN_MLP
    if layout not in swin_mlp.BY_NAME.values():
        architecture = _version([name for name in state if name.startswith(prefix)])
        layout = of_architecture(layout, architecture)
    inner = next((p for p in layout.inner_prefixes if f".{prefix}".endswith(f".{p}")), "")
    outer = prefix.removesuffix(inner)
    below = [name for name in state if name.startswith(outer)]
    own = {name.removeprefix(outer).removeprefix(inner): state[name] for name in below}
    others = {name: value for name, value in state.items() if not name.startswith(outer)}
    return BackboneMatch(layout, outer, own, others, architecture)


def _version(names: list[str]) -> str:
    """Architecture of the Swin with these names; an error for what only looks like Swin."""
    for pattern, what in _OTHERS.items():
        if any(re.search(pattern, name) for name in names):
            raise UserError(f"these are weights of {what}: give weights of a Swin Transformer")
    if not any(_SECOND_VERSION.search(name) for name in names):
        return SWIN
    if not any(name.endswith(".logit_scale") for name in names):
        raise UserError(
            "these are weights of Swin-MoE or its dense baseline, which have a position bias of "
            "Swin V2 without its cosine attention: give weights of a Swin Transformer"
        )
    return SWIN_V2
