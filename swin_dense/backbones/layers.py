"""Layers that Swin backbones share, and when our functions may compute a block in their place."""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swin_dense.backbones import tuning
from swin_dense.backbones.tuning import Choice
from swin_dense.ops.block import Linear, Norm, norm_map
from swin_dense.ops.dispatch import AttnImpl, Decision, has_hooks, is_eager
from swin_dense.ops.torch_versions import SDPBackend, is_compiling, sdpa_kernel

# These never hold all scores: 2200 tokens of a 1600-pixel image have 5 million for each head.
_FUSED_SDPA = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# Whatever dynamic_axes say: the file is written, and fails in its runtime at another size.
_ONE_SIZE = (
    "torch.jit's trace of a Swin, also by torch.onnx.export(dynamo=False), is for images of this "
    "size alone: tools/export.py and torch.onnx.export(dynamo=True) take any size (docs/export.md)"
)


class PatchEmbed(nn.Module):
    """Split an image into patches and embed each: ``(B, in, H, W) -> (B, H', W', C)``.

    H' = ceil(H / patch_size): the last patches are padded with zeros.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        norm_cfg: dict | None,
        attn_impl: AttnImpl,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.attn_impl = attn_impl
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        self.norm = build_norm_layer(norm_cfg, embed_dims)[1] if norm_cfg else nn.Identity()
        self.norm_of_map = NormOfMap(self.norm, attn_impl, channels_first=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W) -> (B, H', W', C)``."""
        h, w = x.shape[-2:]
        # Not -h % patch_size: the compiler knows that whole patches come out of this one. Nor
        # -(-h // patch_size), here and elsewhere: ONNX divides integers towards zero.
        rows, columns = ((size + self.patch_size - 1) // self.patch_size for size in (h, w))
        bottom, right = rows * self.patch_size - h, columns * self.patch_size - w
        compiling = is_compiling()
        if compiling or bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        # In a compiled graph the gradient of a convolution is for one size, of a product for all.
        if compiling:
            embedded = self._product(x)
        else:
            if torch.jit.is_tracing():
                warnings.warn(_ONE_SIZE, stacklevel=2)
            if is_eager(x) and x.device.type == "cpu":  # the norm takes its channels last
                x = x.contiguous(memory_format=torch.channels_last)
            embedded = self.projection(x).permute(0, 2, 3, 1)
        return self.norm_of_map(self.norm, embedded)

    def _product(self, x: Tensor) -> Tensor:
        """The projection as a matrix product, ``(B, H', W', C)``."""
        side = self.patch_size
        patches = x.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3), self.projection.weight.flatten(1), self.projection.bias)


class FeedForward(nn.Module):
    """The two-layer MLP of a block; the nesting is that of OpenMMLab's parameter names."""

    def __init__(self, channels: int, hidden: int, act_cfg: dict, drop_rate: float) -> None:
        super().__init__()
        expand = nn.Sequential(
            nn.Linear(channels, hidden), build_activation_layer(act_cfg), nn.Dropout(drop_rate)
        )
        self.layers = nn.Sequential(expand, nn.Linear(hidden, channels), nn.Dropout(drop_rate))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        return self.layers(x)


class Attention(nn.Module):
    """Multi-head self-attention between its linear layers; :meth:`attend` is the subclass's."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        qkv_bias: bool,
        scale: float | None = None,
        attn_drop_rate: float,
        drop_rate: float,
        attn_impl: AttnImpl,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5 if scale is None else scale
        self.attn_drop_rate = attn_drop_rate
        self.attn_impl = attn_impl
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, impl: AttnImpl | None = None) -> Tensor:
        """``(B, ..., C) -> (B, ..., C)``; ``impl`` is by default the layer's own."""
        return self.proj_drop(self.proj(self.attend(self.qkv(x), impl)))

    def attend(self, qkv: Tensor, impl: AttnImpl | None = None) -> Tensor:
        """Attention alone: ``(B, ..., 3C)`` of the qkv layer to ``(B, ..., C)``."""
        raise NotImplementedError


class GlobalAttention(Attention):
    """Self-attention of every token with every other: DeiT's, and the extra layer of HTC++.

    Section 4.2 of the paper names the latter and says no more; the published sizes are those of a
    whole block around it. It has no position bias, as a table of offsets would fix the input size.
    """

    def attend(self, qkv: Tensor, impl: AttnImpl | None = None) -> Tensor:
        """Attention alone: ``(B, ..., 3C)`` of the qkv layer to ``(B, ..., C)``."""
        fused = (impl or self.attn_impl).name != "reference"
        tokens = qkv.flatten(1, -2).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = tokens.permute(2, 0, 3, 1, 4).unbind(0)
        dropout_p = self.attn_drop_rate if self.training else 0.0
        with sdpa_kernel(_FUSED_SDPA if fused else [SDPBackend.MATH]):
            out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=self.scale)
        return out.transpose(1, 2).reshape(*qkv.shape[:-1], -1)


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, with_cp: bool) -> Tensor:
    """One block after the other; ``with_cp`` recomputes each in backward instead of keeping it."""
    for block in blocks:
        if with_cp and torch.is_grad_enabled():
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = block(x)
    return x


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Rates of stochastic depth of all blocks, from 0 to ``rate`` of the last."""
    return torch.linspace(0, rate, depth, device="cpu").tolist()


class NormOfMap:
    """Computes a norm of a feature map, by Triton if it may; with 'auto' if that is faster.

    This is no module: the norm is its owner's, under the name that its parameters have there.

    Args:
        norm: over C channels.
        attn_impl: the backbone's.
        channels_first: whether the result is ``(B, C, H, W)``.
    """

    def __init__(self, norm: nn.Module, attn_impl: AttnImpl, channels_first: bool) -> None:
        self._channels_first = channels_first
        self._ops = Decision(norm, partial(_map_norm_ops, attn_impl, channels_first))

    def __call__(self, norm: nn.Module, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` to that or ``(B, C, H, W)``; by its modules if ``norm`` is another."""
        ops = None if has_hooks(norm) else self._ops.current(norm, x)
        if ops is None:
            return _norm_by_modules(norm, x, self._channels_first)
        layer, impl, choice = ops
        tuned = choice if x.device.type in tuning.DEVICES else None
        if (impl if tuned is None else tuned.of(x)).triton:
            return norm_map(x, layer, self._channels_first)
        return _norm_by_modules(norm, x, self._channels_first)


def add_output_norms(backbone: nn.Module, norm_cfg: dict | None, args: Any) -> dict[int, NormOfMap]:
    """Adds the norms of a backbone's feature maps as ``norm{i}``; returns what computes them.

    ``args`` has the backbone's ``out_indices``, ``channels`` of every stage and ``attn_impl``.
    """
    found = {}
    for i in args.out_indices:
        norm = build_norm_layer(norm_cfg, args.channels[i])[1] if norm_cfg else nn.Identity()
        backbone.add_module(f"norm{i}", norm)
        found[i] = NormOfMap(norm, args.attn_impl, channels_first=True)
    return found


class MapNorm(nn.Module):
    """A norm of a feature map as a layer of its own, of which 'auto' measures copies."""

    def __init__(self, norm: nn.Module, attn_impl: AttnImpl, channels_first: bool) -> None:
        super().__init__()
        self.norm = norm
        self.attn_impl = attn_impl
        self.channels_first = channels_first

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` to that or ``(B, C, H, W)``."""
        if self.attn_impl.triton:
            return norm_map(x, fusable_layer(self.norm), self.channels_first)
        return _norm_by_modules(self.norm, x, self.channels_first)


def _norm_by_modules(norm: nn.Module, x: Tensor, channels_first: bool) -> Tensor:
    x = norm(x)
    if not channels_first:
        return x
    if is_eager(x) and x.device.type == "cpu" and len(x) == 1:
        # PyTorch transposes a matrix in blocks that stay in the cache, but not a batch of them.
        return x[0].flatten(0, 1).t().contiguous().view(1, -1, *x.shape[1:3])
    return x.permute(0, 3, 1, 2).contiguous()


def _map_norm_ops(
    impl: AttnImpl, channels_first: bool, norm: nn.Module
) -> tuple[Norm, AttnImpl, Choice | None] | None:
    """Who computes a norm: Triton, with 'auto' if it is faster; or None for the module alone."""
    layer = fusable_layer(norm)
    auto = impl.name == "auto"
    if not isinstance(layer, Norm) or not (auto or impl.triton):
        return None
    choice = Choice(MapNorm(norm, impl, channels_first), layer.weight) if auto else None
    return layer, impl, choice


class BlockOps(NamedTuple):
    """What the functions of :mod:`~.ops.block` compute a block from (figure 3b)."""

    norm1: Norm
    qkv: Linear
    attend: Callable[[Tensor, AttnImpl], Tensor]
    proj: Linear
    norm2: Norm
    fc1: Linear
    fc2: Linear
    impl: AttnImpl
    choice: Choice | None = None  # with 'auto'


def fusable_block(
    norm1: nn.Module, attention: Any, norm2: nn.Module, ffn: nn.Module, drop_path: nn.Module
) -> BlockOps | None:
    """The layers of a block for :mod:`~.ops.block`; None if one computes anything else.

    That is the case with adapters, quantised or reparametrised layers, other norms and activations,
    and dropout in training. Hooks are noticed by :class:`~.dispatch.Decision`.
    """
    impl: AttnImpl = attention.attn_impl
    if not impl.fused or type(drop_path) is not DropPath or "forward" in vars(attention):
        return None
    modules = (norm1, attention.qkv, attention.proj, attention.proj_drop, norm2)
    n1, qkv, proj, dropout, n2 = map(fusable_layer, modules)
    mlp = _fusable_mlp(ffn)
    if not (n1 and qkv and proj and dropout and n2 and mlp):
        return None
    return BlockOps(n1, qkv, attention.attend, proj, n2, *mlp, impl)


def _fusable_mlp(ffn: nn.Module) -> tuple[Linear, Linear] | None:
    """fc1 and fc2, if the MLP is what :class:`FeedForward` builds, with an exact GELU."""
    if type(ffn) is not FeedForward or any("forward" in vars(m) for m in ffn.modules()):
        return None
    modules = [m for m in ffn.modules() if not isinstance(m, (FeedForward, nn.Sequential))]
    if [type(m) for m in modules] != [nn.Linear, nn.GELU, nn.Dropout, nn.Linear, nn.Dropout]:
        return None
    fc1, gelu, drop1, fc2, drop2 = map(fusable_layer, modules)
    return (fc1, fc2) if fc1 and gelu and drop1 and fc2 and drop2 else None


def fusable_layer(layer: Any) -> Any:
    """The Norm or Linear of a layer; True for an exact GELU or a Dropout that drops nothing.

    None if the layer computes anything else.
    """
    kind = type(layer)
    if "forward" in vars(layer):
        return None
    if kind is nn.GELU:
        return layer.approximate == "none" or None
    if kind is nn.Dropout:
        return not (layer.p and layer.training) or None
    if kind not in (nn.LayerNorm, nn.Linear) or not is_eager(layer.weight, layer.bias):
        return None
    if kind is nn.Linear:
        return Linear(layer.weight, layer.bias)
    weight, bias = layer.weight, layer.bias
    return None if weight is None or bias is None else Norm(weight, bias, layer.eps)
