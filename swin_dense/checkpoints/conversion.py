"""Weights from any known layout to a chosen one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swin_dense.checkpoints.contents import as_shape_error
from swin_dense.checkpoints.files import weights_of
from swin_dense.checkpoints.layouts import TARGETS, find_backbone, of_architecture
from swin_dense.checkpoints.layouts.base import State
from swin_dense.errors import UserError

_HEAD = "head.fc."
_OUTPUT_NORM = re.compile(r"norm\d+")
_DENSE_ONLY = re.compile(r"norm\d+\.|absolute_pos_embed$|mask_token$|.*\.global_block\.")


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Args:
        layout: of the weights before the conversion.
        state: the weights in the target layout.
        unmapped: those that models of that layout do not have; they keep OpenMMLab's names.
        dropped: those outside the backbone that were removed, because code of that layout has no
            detectors and segmentors, or because they are of a model beside it, as a student.
        is_full_model: whether ``state`` is a whole detector or segmentor.
    """

    layout: str
    state: State
    unmapped: list[str]
    dropped: list[str]
    is_full_model: bool


def convert(checkpoint: Mapping[str, Any], to: str) -> Converted:
    """Convert a backbone, a classifier, a detector or a segmentor to a layout.

    Args:
        checkpoint: a state dict in any known layout, bare or wrapped.
        to: a name in :data:`TARGETS`.

    Raises:
        UserError: the layout of the weights or the target layout is unknown, or has no such model.
    """
    if to not in TARGETS:
        raise UserError(f"unknown layout {to!r}: choose one of {', '.join(TARGETS)}")
    match = find_backbone(weights_of(checkpoint))
    if match is None:
        raise UserError("these are no Swin weights in a known layout: see docs/weights.md")
    target = of_architecture(TARGETS[to], match.architecture)
    head = {name: value for name, value in match.other_weights.items() if name.startswith(_HEAD)}
    others = {name: value for name, value in match.other_weights.items() if name not in head}
    with as_shape_error():
        state = match.layout.to_openmmlab(match.state) | head
        state = target.from_openmmlab(_with_final_norm(state))
    unmapped = [n for n in state if target.classification_only and _DENSE_ONLY.match(n)]
    if not others or not target.has_detectors:
        return Converted(match.layout.name, state, unmapped, list(others), is_full_model=False)
    around = match.prefix.removesuffix("backbone.")
    state = {f"backbone.{name}": value for name, value in state.items()}
    beside = around.endswith("teacher.")  # a student, which is a model of its own
    dropped = [name for name in others if beside and not name.startswith(around)]
    state |= {n.removeprefix(around): v for n, v in others.items() if n not in dropped}
    return Converted(match.layout.name, state, unmapped, dropped, is_full_model=True)


def _with_final_norm(state: State) -> State:
    """Names the norm before a head ``norm``; mmpretrain names it after its stage."""
    norms = {name.partition(".")[0] for name in state if _OUTPUT_NORM.match(name)}
    if _HEAD + "weight" not in state or "norm.weight" in state or len(norms) != 1:
        return state
    (last,) = norms
    return {re.sub(rf"^{last}\.", "norm.", name): value for name, value in state.items()}


def as_checkpoint(converted: Converted, to: str, meta: object) -> dict[str, Any]:
    """The content of a ``.pth`` file, wrapped as code of the layout ``to`` reads it.

    Detectors and segmentors are under ``state_dict``, with ``meta`` (class names), and the
    authors' classifiers under ``model``; all others are bare state dicts.
    """
    if converted.is_full_model or (to == "openmmlab" and meta):
        return {"meta": meta or {}, "state_dict": converted.state}
    wrapper = TARGETS[to].wrapper
    return {wrapper: converted.state} if wrapper else dict(converted.state)
