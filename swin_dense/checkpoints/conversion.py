"""Weights from any known layout to a chosen one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swin_dense.checkpoints.layouts import (
    OFFICIAL,
    OPENMMLAB,
    TIMM,
    TORCHVISION,
    State,
    find_backbone,
    hugging_face,
)
from swin_dense.checkpoints.wrappers import weights_of
from swin_dense.errors import UserError

# "hf" has the names of the installed transformers, the other two are for either generation.
TARGETS = {
    "openmmlab": OPENMMLAB,
    "official": OFFICIAL,
    "timm": TIMM,
    "hf": hugging_face.of_installed(),
    "hf4": hugging_face.HUB,
    "hf5": hugging_face.MODULES,
    "torchvision": TORCHVISION,
}
_DETECTORS = ("openmmlab", "official")  # layouts whose code builds detectors and segmentors
_HEAD = "head.fc."
_OUTPUT_NORM = re.compile(r"norm\d+")
_DENSE_ONLY = re.compile(r"norm\d+\.|absolute_pos_embed$|mask_token$|.*\.global_block\.")


@dataclass(frozen=True)
class Converted:
    """What a conversion gives.

    Args:
        layout: of the weights as they came.
        state: the weights in the layout that was asked for.
        homeless: those that have no place in that layout's models and keep OpenMMLab's names.
        left_out: those outside the backbone that were dropped, because only OpenMMLab's and the
            authors' code have detectors and segmentors.
        whole: whether ``state`` is a whole detector or segmentor.
    """

    layout: str
    state: State
    homeless: list[str]
    left_out: list[str]
    whole: bool


def convert(checkpoint: Mapping[str, Any], to: str) -> Converted:
    """Bring a backbone, a classifier, or the backbone of a detector or segmentor into a layout.

    Args:
        checkpoint: a state dict in any known layout, bare or wrapped.
        to: a name in :data:`TARGETS`.

    Raises:
        UserError: the layout is not known, of the weights or the one that is asked for.
    """
    if to not in TARGETS:
        raise UserError(f"no layout is called {to!r}: choose one of {', '.join(TARGETS)}")
    found = find_backbone(weights_of(checkpoint))
    if found is None:
        raise UserError("these are no Swin weights in a known layout: see docs/weights.md")
    head = {name: value for name, value in found.rest.items() if name.startswith(_HEAD)}
    rest = {name: value for name, value in found.rest.items() if name not in head}
    own = _with_final_norm(found.in_openmmlab() | head)
    state = TARGETS[to].from_openmmlab(own)
    no_place = to in ("timm", "torchvision")
    homeless = [name for name in state if no_place and _DENSE_ONLY.match(name)]
    if not rest:
        return Converted(found.layout.name, state, homeless, [], whole=False)
    if to not in _DETECTORS:
        return Converted(found.layout.name, state, homeless, list(rest), whole=False)
    around = found.prefix.removesuffix("backbone.")
    state = {f"backbone.{name}": value for name, value in state.items()}
    state |= {name.removeprefix(around): value for name, value in rest.items()}
    return Converted(found.layout.name, state, homeless, [], whole=True)


def _with_final_norm(state: State) -> State:
    """Names the norm before a head ``norm``; mmpretrain names it after its stage."""
    norms = {name.partition(".")[0] for name in state if _OUTPUT_NORM.match(name)}
    if _HEAD + "weight" not in state or "norm.weight" in state or len(norms) != 1:
        return state
    (last,) = norms
    return {
        f"norm.{name.removeprefix(f'{last}.')}" if name.startswith(f"{last}.") else name: value
        for name, value in state.items()
    }


def as_checkpoint(converted: Converted, to: str, meta: object) -> dict[str, Any]:
    """A ``.pth`` file's content, wrapped as the code that ``to`` belongs to reads it.

    Detectors and segmentors come as ``state_dict``, with ``meta`` (class names), and the authors'
    classifiers as ``model``; everything else is read as a bare state dict.
    """
    if converted.whole or (to == "openmmlab" and meta):
        return {"meta": meta or {}, "state_dict": converted.state}
    return {"model": converted.state} if to == "official" else dict(converted.state)
