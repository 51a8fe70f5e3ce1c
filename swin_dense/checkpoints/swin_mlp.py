"""Weights of Swin-MLP, which fit windows of the size that they were trained with alone."""

from collections.abc import Mapping
from math import isqrt

from torch import Tensor

from swin_dense.checkpoints.files import strip_prefixes
from swin_dense.checkpoints.layouts import SWIN_MLP, find_backbone
from swin_dense.checkpoints.layouts.base import State
from swin_dense.checkpoints.resizing import resize_weights
from swin_dense.errors import UserError

_SPATIAL = "stages.{}.blocks.0.attn.w_msa.spatial_mlp.weight"


def to_swin_mlp(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[State, str, list[str]]:
    """:meth:`~.loading.LoadableBackbone.to_native` of Swin-MLP.

    Raises:
        UserError: these are weights of another architecture, of other windows or heads.
    """
    match = find_backbone(state)
    if match is None:
        return strip_prefixes(state), "unknown", []
    match.require(SWIN_MLP)
    native = match.layout.to_openmmlab(match.state)
    theirs, ours = _sizes(native), _sizes(own)
    if len(theirs) == len(ours) and theirs != ours:
        raise UserError(
            f"these weights have {_listed(theirs)}, the config has {_listed(ours)}: give the arch "
            "that they were trained with"
        )
    weights, resized = resize_weights(native, own, grid=(1, 1))
    return weights, match.layout.name, resized


def _sizes(state: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Side of the windows in tokens and heads of every stage."""
    found: list[tuple[int, int]] = []
    while (key := _SPATIAL.format(len(found))) in state:
        rows, tokens = state[key].shape[:2]
        found.append((isqrt(tokens), rows // max(tokens, 1)))
    return found


def _listed(sizes: list[tuple[int, int]]) -> str:
    windows = " ".join(str(side) for side, _ in sizes)
    return f"windows of {windows} tokens and {' '.join(str(h) for _, h in sizes)} heads"
