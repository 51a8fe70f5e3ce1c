"""Swin V2 in all layouts; mmpretrain's names are ours.

mmpretrain, timm and OpenMMLab's V2 begin a stage with its patch merging, where the others end the
one before. Its norm comes after the reduction, so that only the reduction has channels in order of
the neighbours.
"""

import re
from dataclasses import replace

import torch

from swin_dense.checkpoints.layouts import hugging_face, official, openmmlab, timm, torchvision
from swin_dense.checkpoints.layouts.base import ABSOLUTE, COORDINATES, Layout, State

_MERGING = re.compile(r"stages\.\d+\.downsample\.reduction\.weight$")
_PART = re.compile(r"(.*\.attn\.w_msa)\.(query|key|value)\.(weight|bias)")

# Names of SimMIM and of the authors' dense code: the MLP of the bias, and the extra norm.
_OTHER_NAMES = ((".attn.w_msa.rpe_mlp.", ".attn.w_msa.cpb_mlp."), (".enorm.", ".norm3."))


def _join(state: State) -> State:
    joined = {}
    for name, value in state.items():
        for theirs, ours in _OTHER_NAMES:
            name = name.replace(theirs, ours)
        joined[name] = value
    return joined


def _without_table(state: State) -> State:
    return {name: value for name, value in state.items() if not name.endswith(COORDINATES)}


def _join_parts(state: State) -> State:
    """Hugging Face: concatenates query, key and value; keys have no bias."""
    joined: State = {}
    for name, value in state.items():
        found = _PART.fullmatch(name)
        if found is None:
            joined[name] = value
        elif found[3] == "bias":
            joined[f"{found[1]}.{found[2][0]}_bias"] = value
        elif found[2] == "query":
            parts = [state[f"{found[1]}.{part}.weight"] for part in ("query", "key", "value")]
            joined[f"{found[1]}.qkv.weight"] = torch.cat(parts)
    return joined


def _split_parts(state: State) -> State:
    split: State = {}
    for name, value in _without_table(state).items():
        if name.endswith(".attn.w_msa.qkv.weight"):
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                split[name.replace(".qkv.", f".{part}.")] = third.contiguous()
        else:
            name = name.replace(".attn.w_msa.q_bias", ".attn.w_msa.query.bias")
            split[name.replace(".attn.w_msa.v_bias", ".attn.w_msa.value.bias")] = value
    return split


def _split_bias(state: State) -> State:
    """torchvision: the third of the bias that belongs to the keys is not used."""
    split: State = {}
    for name, value in state.items():
        if name.endswith(".attn.w_msa.qkv.bias"):
            query, _, value = value.chunk(3)
            split[name.replace("qkv.bias", "q_bias")] = query.contiguous()
            split[name.replace("qkv.bias", "v_bias")] = value.contiguous()
        else:
            split[name] = value
    return split


def _join_bias(state: State) -> State:
    joined: State = {}
    for name, value in state.items():
        if name.endswith(".attn.w_msa.q_bias"):
            parts = [value, torch.zeros_like(value), state[name.replace("q_bias", "v_bias")]]
            joined[name.replace("q_bias", "qkv.bias")] = torch.cat(parts)
        elif not name.endswith(".attn.w_msa.v_bias"):
            joined[name] = value
    return joined


OPENMMLAB = replace(openmmlab.OPENMMLAB, join=_join)

OFFICIAL = replace(
    official.OFFICIAL,
    table=(
        *official.BLOCKS,
        ("stages.{i+1}.downsample.*", "layers.{i}.downsample.*"),
        ("stages.{i}.*", "layers.{i}.*"),
        ("head.fc.*", "head.*"),
    ),
    merging=_MERGING,
    join=_join,
)

_OF_TIMM = (*official.BLOCKS, ("stages.{i}.*", "layers.{i}.*"))

TIMM = replace(
    timm.TIMM,
    table=(*_OF_TIMM, *((ours, theirs.replace("layers.", "layers_")) for ours, theirs in _OF_TIMM)),
    merging=_MERGING,
    split=_without_table,
)

_BLOCK = "stages.{i}.blocks.{j}."
_THEIR_BLOCK = "encoder.layers.{i}.blocks.{j}."

HUGGING_FACE = Layout(
    name="hf",
    anchor=hugging_face.HUB.anchor,
    table=(
        ("patch_embed.projection.*", "embeddings.patch_embeddings.projection.*"),
        ("patch_embed.norm.*", "embeddings.norm.*"),
        (ABSOLUTE, "embeddings.position_embeddings"),
        ("mask_token", "embeddings.mask_token"),
        ("stages.{i+1}.downsample.*", "encoder.layers.{i}.downsample.*"),
        ("norm.*", "layernorm.*"),
        ("head.fc.*", "classifier.*"),
        *(
            (_BLOCK + ours, _THEIR_BLOCK + theirs)
            for ours, theirs in (
                ("norm1.*", "layernorm_before.*"),
                ("norm2.*", "layernorm_after.*"),
                ("attn.w_msa.cpb_mlp.*", "attention.self.continuous_position_bias_mlp.*"),
                ("attn.w_msa.proj.*", "attention.output.dense.*"),
                ("attn.w_msa.*", "attention.self.*"),
                ("ffn.layers.0.0.*", "intermediate.dense.*"),
                ("ffn.layers.1.*", "output.dense.*"),
            )
        ),
    ),
    inner_prefixes=("swinv2.", "model."),
    siblings=("classifier.", "decoder."),
    merging=_MERGING,
    join=_join_parts,
    split=_split_parts,
    classification_only=True,
)

TORCHVISION = replace(
    torchvision.TORCHVISION,
    table=(
        ("stages.{i+1}.downsample.*", "features.{2i+2}.*"),
        *(row for row in torchvision.TORCHVISION.table if "downsample" not in row[0]),
    ),
    merging=_MERGING,
    join=_split_bias,
    split=_join_bias,
)

BY_NAME = {one.name: one for one in (OPENMMLAB, OFFICIAL, TIMM, HUGGING_FACE, TORCHVISION)}
