"""A Swin block by the functions of :mod:`~.ops.block`, where its layers are what they expect.

Whoever puts something else into a block (adapters, hooks, quantised layers, dropout), or traces
it, gets the block as it is written in :class:`swin_dense.backbones.swin.SwinBlock`. What is there
is looked up at every call, so this module reads the dictionaries of ``nn.Module`` directly:
attributes take several times as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from swin_dense.backbones.attention_layers import WindowAttention
from swin_dense.backbones.feed_forward import FeedForward
from swin_dense.ops.block import Linear, Norm, after_attention, norm_linear
from swin_dense.ops.dispatch import is_eager

if TYPE_CHECKING:
    from swin_dense.backbones.swin import PatchMerging, SwinBlock


class Layers(NamedTuple):
    """A block's layers (equation 3)."""

    attention: WindowAttention
    drop_path: DropPath
    norm1: Norm
    qkv: Linear
    projection: Linear
    norm2: Norm
    fc1: Linear
    fc2: Linear


def plain_layers(block: SwinBlock, x: Tensor) -> Layers | None:
    """The layers of a block, if they do what their classes say; None if something else is there."""
    if torch.compiler.is_compiling():  # which fuses by itself
        return None
    modules: dict[str, Any] = block._modules
    attention, drop_path = modules["attn"]._modules["w_msa"], modules["drop_path"]
    if (
        type(attention) is not WindowAttention
        or attention.attn_impl == "reference"
        or type(drop_path) is not DropPath
        or _is_hooked(attention)
        or _does_more(attention._modules["proj_drop"], nn.Dropout)
    ):
        return None
    layers = _plain(
        x,
        _norm(modules["norm1"]),
        _linear(attention._modules["qkv"]),
        _linear(attention._modules["proj"]),
        _norm(modules["norm2"]),
        *_perceptron(modules["ffn"]),
    )
    return None if layers is None else Layers(attention, drop_path, *layers)


def plain_merging(merging: PatchMerging, x: Tensor) -> tuple[Norm, Linear] | None:
    """Norm and reduction of a patch merging, under the same condition."""
    if torch.compiler.is_compiling():
        return None
    return _plain(x, _norm(merging.norm), _linear(merging.reduction))


def _plain(x: Tensor, *layers: Any) -> tuple[Any, ...] | None:
    """The layers, if there is not one None and all hold numbers that are computed now."""
    if None in layers or _has_any_global_hook():
        return None
    return layers if is_eager(x, *(p for layer in layers for p in layer[:2])) else None


def _perceptron(ffn: Any) -> tuple[Linear | None, ...]:
    """fc1 and fc2, None where something else is."""
    if type(ffn) is not FeedForward or any(map(_is_hooked, (ffn, ffn.layers, ffn.layers[0]))):
        return (None,)
    expand, *rest = ffn.layers._modules.values()
    layers = (*expand._modules.values(), *rest)  # type: ignore[union-attr]
    if len(layers) != 5:
        return (None,)
    fc1, activation, drop_1, fc2, drop_2 = layers
    others = ((activation, nn.GELU), (drop_1, nn.Dropout), (drop_2, nn.Dropout))
    if any(_does_more(module, kind) for module, kind in others):
        return (None,)
    return _linear(fc1), _linear(fc2)


def _does_more(module: Any, kind: type[nn.Module]) -> bool:
    """Whether a GELU is not the exact one, a dropout drops, or either is something else."""
    return (
        type(module) is not kind
        or _is_hooked(module)
        or (kind is nn.Dropout and module.p and module.training)
        or (kind is nn.GELU and module.approximate != "none")
    )


def _is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _norm(layer: Any) -> Norm | None:
    if type(layer) is not nn.LayerNorm or _is_hooked(layer):
        return None
    # Replicas of DataParallel have no parameters, but tensors in their place.
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    return None if weight is None or bias is None else Norm(weight, bias, layer.eps)


def _linear(layer: Any) -> Linear | None:
    if type(layer) is not nn.Linear or _is_hooked(layer):
        return None
    weight = layer._parameters.get("weight")
    return None if weight is None else Linear(weight, layer._parameters.get("bias"))


def forward(layers: Layers, x: Tensor) -> Tensor:
    """A block: ``(B, H, W, C) -> (B, H, W, C)``."""
    impl = layers.attention.attn_impl
    attended = layers.attention.attend(norm_linear(x, layers.norm1, layers.qkv, impl=impl))
    return after_attention(
        x,
        attended,
        layers.projection,
        layers.norm2,
        layers.fc1,
        layers.fc2,
        (_scale(layers.drop_path, attended), _scale(layers.drop_path, attended)),
        impl,
    )


def _scale(drop_path: DropPath, branch: Tensor) -> Tensor | None:
    """What stochastic depth multiplies a branch of every image by, ``(B,)`` fp32; None for 1."""
    if not (drop_path.drop_prob and drop_path.training):
        return None
    # Drawn by the layer itself and in the branch's precision: the same numbers as without us.
    drawn = drop_path(branch.new_ones(len(branch), 1, 1, 1)).flatten()
    keep = 1 - drop_path.drop_prob
    return (drawn > 0).to(torch.promote_types(branch.dtype, torch.float32)) / keep
