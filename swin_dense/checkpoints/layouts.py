"""Key layouts of Swin weights, and the way from each to OpenMMLab's, which is ours.

``official`` is that of the authors' classification and detection code: ``layers.0.blocks.0...``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]

# (OpenMMLab's part of a name, the official one), each at most once in a name.
_NAMES = (
    ("patch_embed.projection.", "patch_embed.proj."),
    ("stages.", "layers."),
    (".attn.w_msa.", ".attn."),
    (".ffn.layers.0.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
)
_MERGING = re.compile(r"\.downsample\.(norm\.(weight|bias)|reduction\.weight)$")


def recognise(keys: Mapping[str, object]) -> str:
    """Layout of a bare backbone state dict: 'openmmlab', 'official' or 'unknown'."""
    for key in keys:
        if re.match(r"stages\.\d+\.blocks\.\d+\.attn\.w_msa\.", key):
            return "openmmlab"
        if re.match(r"layers\.\d+\.blocks\.\d+\.attn\.(qkv|proj)\.", key):
            return "official"
    return "unknown"


def official_to_openmmlab(state: Mapping[str, Tensor]) -> State:
    """Rename and reorder a backbone's weights; what has no counterpart keeps its name.

    Attention masks, which the classification code stores, are left out: ours follow the input.
    """
    renamed: State = {}
    for key, value in state.items():
        if key.endswith(".attn_mask"):
            continue
        if _MERGING.search(key):
            value = _quadrants_to_unfold(value)
        for ours, theirs in _NAMES:
            key = key.replace(theirs, ours, 1)
        renamed[key] = value
    return renamed


def openmmlab_to_official(state: Mapping[str, Tensor]) -> State:
    """Undo :func:`official_to_openmmlab`."""
    renamed: State = {}
    for key, value in state.items():
        if _MERGING.search(key):
            value = _unfold_to_quadrants(value)
        for ours, theirs in _NAMES:
            key = key.replace(ours, theirs, 1)
        renamed[key] = value
    return renamed


# Patch merging joins the neighbours (row, column) = (0, 0), (1, 0), (0, 1), (1, 1) in the
# official order, C channels each; nn.Unfold keeps a channel's four neighbours together and
# takes them row by row. The permutation of neighbours is its own inverse.
_SWAP = torch.tensor([0, 2, 1, 3])


def _quadrants_to_unfold(weight: Tensor) -> Tensor:
    """Reorder the last axis, 4C channels, of a merging weight from official to unfold order."""
    return weight.unflatten(-1, (4, -1))[..., _SWAP, :].transpose(-1, -2).flatten(-2)


def _unfold_to_quadrants(weight: Tensor) -> Tensor:
    return weight.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., _SWAP, :].flatten(-2)
