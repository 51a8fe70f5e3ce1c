"""A Swin block by the functions of :mod:`swin_dense.fused`, where its layers are what they expect.

Whoever puts something else into a block (adapters, hooks, quantised layers, dropout), or traces
it, gets the block as it is written in :class:`swin_dense.backbones.swin.SwinBlock`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from swin_dense.attention.eager import is_eager
from swin_dense.backbones.attention_layers import WindowAttention
from swin_dense.backbones.feed_forward import FeedForward
from swin_dense.fused import Linear, Norm, after_attention, norm_linear

if TYPE_CHECKING:
    from swin_dense.backbones.swin import PatchMerging, SwinBlock


class _FeedForward(NamedTuple):
    """The layers of a block's perceptron."""

    fc1: nn.Linear
    activation: nn.GELU
    drop_1: nn.Dropout
    fc2: nn.Linear
    drop_2: nn.Dropout

    @classmethod
    def of(cls, block: SwinBlock) -> _FeedForward | None:
        """None if these are other layers than :class:`FeedForward` makes, or more."""
        if type(block.ffn) is not FeedForward:
            return None
        expand, *rest = block.ffn.layers.children()
        layers = (*expand.children(), *rest)
        kinds = (nn.Linear, nn.GELU, nn.Dropout, nn.Linear, nn.Dropout)
        return cls(*layers) if tuple(map(type, layers)) == kinds else None  # type: ignore[arg-type]


def fits(block: SwinBlock, x: Tensor) -> bool:
    """Whether the fused functions compute what the modules of this block do."""
    attention = block.attn["w_msa"]
    if type(attention) is not WindowAttention or attention.attn_impl == "reference":
        return False
    ffn = _FeedForward.of(block)
    if ffn is None or ffn.activation.approximate != "none":
        return False
    drops = (attention.proj_drop, ffn.drop_1, ffn.drop_2)
    hookable = (attention, block.ffn, block.ffn.layers, block.ffn.layers[0], ffn.activation, *drops)
    return (
        type(block.drop_path) is DropPath
        and not any(drop.p and drop.training for drop in drops)
        and not any(map(_is_hooked, hookable))
        and _are_plain(
            x, (block.norm1, block.norm2), (attention.qkv, attention.proj, ffn.fc1, ffn.fc2)
        )
    )


def fits_merging(merging: PatchMerging, x: Tensor) -> bool:
    """Whether the fused function computes what the modules of this patch merging do."""
    return _are_plain(x, (merging.norm,), (merging.reduction,))


def _are_plain(x: Tensor, norms: Sequence[nn.Module], linears: Sequence[nn.Module]) -> bool:
    """Whether these are LayerNorms and linear layers and no more, on numbers computed now."""
    if _has_any_global_hook() or any(map(_is_hooked, (*norms, *linears))):
        return False
    return (
        all(type(norm) is nn.LayerNorm and norm.bias is not None for norm in norms)
        and all(type(linear) is nn.Linear for linear in linears)
        and is_eager(x, *(p for layer in (*norms, *linears) for p in (layer.weight, layer.bias)))  # type: ignore[arg-type]
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


def forward(block: SwinBlock, x: Tensor) -> Tensor:
    """``(B, H, W, C) -> (B, H, W, C)``: equation 3."""
    attention = block.attn["w_msa"]
    assert isinstance(attention, WindowAttention)
    ffn = _FeedForward.of(block)
    assert ffn is not None
    qkv = norm_linear(x, _norm(block.norm1), _linear(attention.qkv))
    attended = attention.attend(qkv)
    return after_attention(
        x,
        attended,
        _linear(attention.proj),
        _norm(block.norm2),
        _linear(ffn.fc1),
        _linear(ffn.fc2),
        (_scale(block, attended), _scale(block, attended)),
    )


def merge(merging: PatchMerging, x: Tensor) -> Tensor:
    """``(B, H, W, C) -> (B, ceil(H / s), ceil(W / s), 2C)`` (section 3.1)."""
    norm = merging.norm
    assert isinstance(norm, nn.LayerNorm)
    return norm_linear(x, _norm(norm), _linear(merging.reduction), arrange=merging.neighbours)


def _norm(layer: nn.LayerNorm) -> Norm:
    return Norm(layer.weight, layer.bias, layer.eps)


def _linear(layer: nn.Linear) -> Linear:
    return Linear(layer.weight, layer.bias)


def _scale(block: SwinBlock, branch: Tensor) -> Tensor | None:
    """What stochastic depth multiplies a branch of every image by, ``(B,)`` fp32; None for 1."""
    rate = block.drop_path.drop_prob
    if not (rate and block.drop_path.training):
        return None
    # Drawn by the layer itself and in the branch's precision: the same numbers as without us.
    drawn = block.drop_path(branch.new_ones(len(branch), 1, 1, 1)).flatten()
    return (drawn > 0).to(torch.promote_types(branch.dtype, torch.float32)) / (1 - rate)
