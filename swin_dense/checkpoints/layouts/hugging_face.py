"""Hugging Face transformers: separate query, key and value, and two generations of names.

``HUB`` has the names of files on the hub and of modules until 5.8, ``MODULES`` those of modules
since 5.9, whose ``from_pretrained`` still reads the former.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from math import isqrt

import torch

from swin_dense.checkpoints.layouts.base import ABSOLUTE, TABLE, Layout, State

_PARTS = ("query", "key", "value")
_PART = re.compile(r"(.*\.attn\.w_msa)\.(query|key|value)\.(.*)")
_SIBLINGS = ("classifier.", "hidden_states_norms.", "decoder.")
_RENAMED_SINCE = (5, 9)

_ours = "stages.{i}.blocks.{j}"
_theirs = "encoder.layers.{i}.blocks.{j}"
_EMBEDDINGS = (
    ("patch_embed.projection.*", "embeddings.patch_embeddings.projection.*"),
    ("patch_embed.norm.*", "embeddings.norm.*"),
    (ABSOLUTE, "embeddings.position_embeddings"),
    ("mask_token", "embeddings.mask_token"),
)
_REST = (
    (f"{_ours}.norm1.*", f"{_theirs}.layernorm_before.*"),
    (f"{_ours}.norm2.*", f"{_theirs}.layernorm_after.*"),
    ("stages.{i}.downsample.*", "encoder.layers.{i}.downsample.*"),
    ("norm.*", "layernorm.*"),
    ("norm{i}.*", "hidden_states_norms.stage{i+1}.*"),
    ("norm{i}.*", "hidden_states_norms.{i}.*"),  # MaskFormer's own backbone
    ("head.fc.*", "classifier.*"),
)


def _join(state: State) -> State:
    """Concatenates query, key and value to qkv where all three are present."""
    joined: State = {}
    for name, value in state.items():
        found = _PART.fullmatch(name)
        parts = [] if found is None else [f"{found[1]}.{part}.{found[3]}" for part in _PARTS]
        if found is None or not all(part in state for part in parts):
            joined[name] = value
        elif found[2] == _PARTS[0]:
            joined[f"{found[1]}.qkv.{found[3]}"] = torch.cat([state[part] for part in parts])
    return joined


def _split(state: State) -> State:
    """Splits qkv into query, key and value."""
    parts: State = {}
    for name, value in state.items():
        before, is_qkv, after = name.partition(".attn.w_msa.qkv.")
        if not is_qkv:
            parts[name] = value
            continue
        for part, third in zip(_PARTS, value.chunk(3), strict=True):
            parts[f"{before}.attn.w_msa.{part}.{after}"] = third.contiguous()
    return parts


def _without_class_slot(state: State) -> State:
    """Drops the embedding of a class token, which 4.x reserves and Swin does not have."""
    state = _join(state)
    embed = state.get(ABSOLUTE)
    if embed is None or isqrt(embed.shape[1]) ** 2 == embed.shape[1]:
        return state
    if isqrt(embed.shape[1] - 1) ** 2 == embed.shape[1] - 1:
        return state | {ABSOLUTE: embed[:, 1:]}
    return state


def _with_class_slot(state: State) -> State:
    state = _split(state)
    embed = state.get(ABSOLUTE)
    if embed is None:
        return state
    return state | {ABSOLUTE: torch.cat((torch.zeros_like(embed[:, :1]), embed), dim=1)}


def _prefix_next_to(
    siblings: tuple[str, ...], inner_prefix: str = "swin."
) -> Callable[[State], State]:
    """Puts the backbone below ``inner_prefix`` in a state dict that also has its siblings."""

    def add_prefix(state: State) -> State:
        alone = not any(name.startswith(siblings) for name in state)
        return {
            name if alone or name.startswith(_SIBLINGS) else inner_prefix + name: value
            for name, value in state.items()
        }

    return add_prefix


HUB = Layout(
    name="hf",
    anchor=r"encoder\.layers\.0\.blocks\.0\.attention\.self\.query\.weight",
    table=(
        *_EMBEDDINGS,
        *((f"{_ours}.attn.w_msa.{p}.*", f"{_theirs}.attention.self.{p}.*") for p in _PARTS),
        (f"{_ours}.attn.w_msa.{TABLE}", f"{_theirs}.attention.self.{TABLE}"),
        (f"{_ours}.attn.w_msa.proj.*", f"{_theirs}.attention.output.dense.*"),
        (f"{_ours}.ffn.layers.0.0.*", f"{_theirs}.intermediate.dense.*"),
        (f"{_ours}.ffn.layers.1.*", f"{_theirs}.output.dense.*"),
        *_REST,
    ),
    inner_prefixes=("swin.", "model."),
    stored_index="square",
    join=_without_class_slot,
    split=_with_class_slot,
    add_inner_prefix=_prefix_next_to(("classifier.", "decoder.")),
)

MODULES = Layout(
    name="hf",
    anchor=r"encoder\.layers\.0\.blocks\.0\.attention\.q_proj\.weight",
    table=(
        *_EMBEDDINGS,
        *((f"{_ours}.attn.w_msa.{p}.*", f"{_theirs}.attention.{p[0]}_proj.*") for p in _PARTS),
        (f"{_ours}.attn.w_msa.{TABLE}", f"{_theirs}.attention.relative_position_bias.{TABLE}"),
        (f"{_ours}.attn.w_msa.proj.*", f"{_theirs}.attention.o_proj.*"),
        (f"{_ours}.ffn.layers.0.0.*", f"{_theirs}.mlp.fc1.*"),
        (f"{_ours}.ffn.layers.1.*", f"{_theirs}.mlp.fc2.*"),
        *_REST,
    ),
    inner_prefixes=("swin.", "model."),
    join=_join,
    split=_split,
    add_inner_prefix=_prefix_next_to(_SIBLINGS),
)


def of_installed() -> Layout:
    """The layout of the installed transformers' modules; the hub's if it is not installed."""
    try:
        installed = tuple(int(part) for part in version("transformers").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return HUB
    return MODULES if installed >= _RENAMED_SINCE else HUB
