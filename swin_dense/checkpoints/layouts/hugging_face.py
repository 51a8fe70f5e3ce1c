"""Hugging Face transformers: separate query, key and value, and two generations of names.

``HUB`` has the names of files on the hub and of modules until 5.8, ``MODULES`` those of modules
since 5.9, whose ``from_pretrained`` still reads the former.
"""

import re
from importlib.metadata import PackageNotFoundError, version
from math import isqrt

import torch
from torch.nn import functional as F

from swin_dense.checkpoints.layouts.base import ABSOLUTE, Layout, State

_PARTS = ("query", "key", "value")
_PART = re.compile(r"(.*\.attn\.w_msa)\.(query|key|value)\.(.*)")

_SHARED = (
    ("patch_embed.projection.*", "embeddings.patch_embeddings.projection.*"),
    ("patch_embed.norm.*", "embeddings.norm.*"),
    (ABSOLUTE, "embeddings.position_embeddings"),
    ("mask_token", "embeddings.mask_token"),
    ("stages.{i}.downsample.*", "encoder.layers.{i}.downsample.*"),
    ("norm.*", "layernorm.*"),
    ("norm{i}.*", "hidden_states_norms.stage{i+1}.*"),
    ("norm{i}.*", "hidden_states_norms.{i}.*"),  # MaskFormer's own backbone
    ("head.fc.*", "classifier.*"),
)
_OF_BLOCK = (  # OpenMMLab, hub, modules
    ("norm1.*", "layernorm_before.*", "layernorm_before.*"),
    ("norm2.*", "layernorm_after.*", "layernorm_after.*"),
    *((f"attn.w_msa.{p}.*", f"attention.self.{p}.*", f"attention.{p[0]}_proj.*") for p in _PARTS),
    ("attn.w_msa.*_table", "attention.self.*_table", "attention.relative_position_bias.*_table"),
    ("attn.w_msa.proj.*", "attention.output.dense.*", "attention.o_proj.*"),
    ("ffn.layers.0.0.*", "intermediate.dense.*", "mlp.fc1.*"),
    ("ffn.layers.1.*", "output.dense.*", "mlp.fc2.*"),
)


def _table(generation: int) -> tuple[tuple[str, str], ...]:
    ours, theirs = "stages.{i}.blocks.{j}.", "encoder.layers.{i}.blocks.{j}."
    return (*_SHARED, *((ours + row[0], theirs + row[generation]) for row in _OF_BLOCK))


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
        if ".attn.w_msa.qkv." in name:
            for part, third in zip(_PARTS, value.chunk(3), strict=True):
                parts[name.replace(".qkv.", f".{part}.")] = third.contiguous()
        else:
            parts[name] = value
    return parts


def _without_class_slot(state: State) -> State:
    """Drops the embedding of a class token, which 4.x reserves and Swin does not have."""
    state = _join(state)
    rows = state[ABSOLUTE].shape[1] if ABSOLUTE in state else 0
    if isqrt(rows) ** 2 != rows and isqrt(rows - 1) ** 2 == rows - 1:
        state[ABSOLUTE] = state[ABSOLUTE][:, 1:]
    return state


def _with_class_slot(state: State) -> State:
    state = _split(state)
    if ABSOLUTE in state:
        state[ABSOLUTE] = F.pad(state[ABSOLUTE], (0, 0, 1, 0))
    return state


HUB = Layout(
    name="hf",
    anchor=r"encoder\.layers\.0\.blocks\.0\.attention\.self\.query\.weight",
    table=_table(1),
    inner_prefixes=("swin.", "model."),
    siblings=("classifier.", "decoder."),
    stored_index="square",
    join=_without_class_slot,
    split=_with_class_slot,
)

MODULES = Layout(
    name="hf",
    anchor=r"encoder\.layers\.0\.blocks\.0\.attention\.q_proj\.weight",
    table=_table(2),
    inner_prefixes=("swin.", "model."),
    siblings=("classifier.", "decoder.", "hidden_states_norms."),
    join=_join,
    split=_split,
)


def of_installed() -> Layout:
    """The layout of the installed transformers' modules; the hub's if it is not installed."""
    try:
        installed = tuple(int(part) for part in version("transformers").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return HUB
    return MODULES if installed >= (5, 9) else HUB
