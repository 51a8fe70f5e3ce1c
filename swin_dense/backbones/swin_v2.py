"""Swin Transformer V2 as a backbone for dense prediction (arXiv 2111.09883).

Feature maps are ``(B, H, W, C)`` inside, of any size, and returned as ``(B, C, H, W)``. The names
of parameters are mmpretrain's, OpenMMLab's only Swin V2.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from swin_dense.backbones import tuning
from swin_dense.backbones.base import Backbone, init_linear_layers
from swin_dense.backbones.cuda_graphs import CudaGraphs, with_cuda_graphs
from swin_dense.backbones.layers import (
    Attention,
    BlockOps,
    FeedForward,
    NormOfMap,
    PatchEmbed,
    add_output_norms,
    drop_path_rates,
    fusable_block,
    fusable_layer,
    run_blocks,
)
from swin_dense.backbones.swin import drop_path_scale
from swin_dense.backbones.swin_v2_args import ResolvedArgsV2
from swin_dense.checkpoints.layouts import State
from swin_dense.checkpoints.resizing import resize_absolute_pos_embed
from swin_dense.checkpoints.swin_v2 import to_second_version
from swin_dense.ops.block import (
    Linear,
    PostNormLayers,
    neighbours,
    norm_linear,
    proj_mlp_post_norm,
)
from swin_dense.ops.dispatch import AttnImpl, Decision, without_autocast
from swin_dense.ops.kept import Kept
from swin_dense.ops.window_attention import position_bias, shifted_window_attention
from swin_dense.ops.window_attention.triton.op import WINDOW_SIZES
from swin_dense.ops.window_attention.windows import log_spaced_offsets, relative_position_index
from swin_dense.registry import MODELS

logger = logging.getLogger(__name__)

_HIDDEN_OF_BIAS = 512
_LARGEST_LOGIT_SCALE = math.log(100)
_LAYER_NORM = {"type": "LN"}


class CosineWindowAttention(Attention):
    """Scaled cosine attention in (shifted) windows with a continuous position bias (section 3.2).

    The bias is a small MLP of the offset between two tokens, on a logarithmic scale relative to the
    window of pretraining, so that weights fit windows of any size.
    """

    relative_coords_table: Tensor
    relative_position_index: Tensor

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        shift_size: int,
        pretrained_window_size: int,
        attn_impl: AttnImpl,
    ) -> None:
        super().__init__(
            channels, num_heads, qkv_bias=False, scale=1.0, attn_drop_rate=0.0, drop_rate=0.0,
            attn_impl=attn_impl,
        )  # fmt: skip
        self.window_size = window_size
        self.shift_size = shift_size
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, _HIDDEN_OF_BIAS),
            nn.ReLU(),
            nn.Linear(_HIDDEN_OF_BIAS, num_heads, bias=False),
        )
        # Optimizers know parameters by position: mmpretrain's order.
        for name in ("qkv", "proj", "proj_drop"):
            module = getattr(self, name)
            delattr(self, name)
            setattr(self, name, module)
        offsets = log_spaced_offsets(window_size, pretrained_window_size)
        self.register_buffer("relative_coords_table", offsets)
        index = relative_position_index(window_size)
        self.register_buffer("relative_position_index", index, persistent=False)
        self._table = Kept()

    def forward(self, x: Tensor, impl: AttnImpl | None = None) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``; ``impl`` is by default the layer's own."""
        qkv = self.qkv(x)
        qkv = qkv + self.qkv_bias().to(qkv.dtype)
        return self.proj_drop(self.proj(self.attend(qkv, impl)))

    def qkv_bias(self) -> Tensor:
        """``(3C,)``: keys have no bias."""
        return torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])

    def position_bias(self) -> Tensor:
        """``(heads, N, N)``, between 0 and 16, for every pair of tokens."""
        sources = (*self.cpb_mlp.parameters(), self.relative_coords_table)
        table = self._table.get(self._bias_of_offsets, sources)
        return position_bias(table, self.relative_position_index)

    def _bias_of_offsets(self) -> Tensor:
        """``((2M - 1)^2, heads)``, in the precision of the weights, also under autocast."""
        offsets = self.relative_coords_table.to(self.logit_scale.dtype)
        with without_autocast(offsets):
            return 16 * self.cpb_mlp(offsets).flatten(0, -2).sigmoid()

    def attend(self, qkv: Tensor, impl: AttnImpl | None = None) -> Tensor:
        """Attention alone: ``(B, H, W, 3C)`` of the qkv layer to ``(B, H, W, C)``."""
        # The block pads its input with zeros: queries and values of padding are the biases, its
        # keys 0. No result is returned for its queries, so that theirs need no normalisation.
        return shifted_window_attention(
            qkv,
            self.qkv_bias(),
            self.position_bias(),
            num_heads=self.num_heads,
            window_size=self.window_size,
            shift_size=self.shift_size,
            scale=self.scale,
            impl=impl or self.attn_impl,
            tau=self.logit_scale.flatten().clamp(max=_LARGEST_LOGIT_SCALE).exp(),
        )

    def train(self, mode: bool = True) -> "CosineWindowAttention":
        """Set training mode. Returns self."""
        self._table.clear()  # weights may have been exchanged by their .data, as averages are
        return super().train(mode)


class SwinBlockV2(nn.Module):
    """One Transformer block on ``(B, H, W, C)`` with norms after its layers (figure 1)."""

    has_kernels = False
    """Whether there are Triton kernels for the layers around its attention."""

    def __init__(
        self,
        attention: CosineWindowAttention,
        channels: int,
        drop_path_rate: float,
        extra_norm: bool,
    ) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"w_msa": attention})
        self.norm1 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, 4 * channels, {"type": "GELU"}, 0.0)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels) if extra_norm else None
        self.drop_path = DropPath(drop_path_rate)
        self.ops = Decision(self, _block_ops)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        x = self._residuals(x)
        return x if self.norm3 is None else self.norm3(x)

    def _residuals(self, x: Tensor) -> Tensor:
        ops = self.ops.current(self, x)
        if ops is None:  # 'reference', tracing, or layers that compute something special
            return self._by_modules(x)
        choice = ops.choice if x.device.type in tuning.DEVICES else None
        impl = ops.impl if choice is None else choice.of(x)
        if not impl.fused:
            return self._by_modules(x, impl)
        # The same with fewer passes over memory, and less kept for backward.
        bias = self.attn["w_msa"].qkv_bias()  # type: ignore[operator]
        qkv, x = norm_linear(x, None, ops.qkv._replace(bias=bias))
        attended = ops.attend(qkv, impl)
        layers = PostNormLayers(ops.proj, ops.norm1, ops.fc1, ops.fc2, ops.norm2)
        scales = (
            drop_path_scale(self.drop_path, attended),
            drop_path_scale(self.drop_path, attended),
        )
        return proj_mlp_post_norm(x, attended, layers, scales)

    def _by_modules(self, x: Tensor, *impl: AttnImpl) -> Tensor:
        x = x + self.drop_path(self.norm1(self.attn["w_msa"](x, *impl)))
        return x + self.drop_path(self.norm2(self.ffn(x)))


def _block_ops(block: SwinBlockV2) -> BlockOps | None:
    """Who computes a block: the functions of ops.block on its layers, or None for its modules."""
    attention: Any = block.attn["w_msa"]
    if type(attention) is not CosineWindowAttention or attention.qkv.bias is not None:
        return None
    ops = fusable_block(block.norm1, attention, block.norm2, block.ffn, block.drop_path)
    if ops is None or ops.impl.name != "auto":
        return ops
    return ops._replace(choice=tuning.Choice(block, ops.qkv.weight))


class PatchMergingV2(nn.Module):
    """Join 2 x 2 neighbours: ``(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2C)``."""

    def __init__(self, channels: int, attn_impl: AttnImpl) -> None:
        super().__init__()
        self.attn_impl = attn_impl
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(2 * channels)
        self.norm_of_map = NormOfMap(self.norm, attn_impl, channels_first=False)
        self.ops = Decision(self, _merging_ops)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2C)``."""
        reduction = self.ops.current(self, x)
        if reduction is None:
            return self.norm_of_map(self.norm, self.reduction(neighbours(x, 2)))
        return self.norm_of_map(self.norm, norm_linear(x, None, reduction, merge_stride=2)[0])


def _merging_ops(merging: PatchMergingV2) -> Linear | None:
    """The reduction for ops.block, or None for its module."""
    return fusable_layer(merging.reduction) if merging.attn_impl.fused else None


class SwinStageV2(nn.Module):
    """The merging that leads to a resolution, and its blocks."""

    def __init__(
        self, downsample: PatchMergingV2 | None, blocks: Iterable[SwinBlockV2], with_cp: bool
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` of the stage before to this stage's feature map."""
        if self.downsample is not None:
            x = self.downsample(x)
        return run_blocks(self.blocks, x, self.with_cp)


@MODELS.register_module()
class SwinTransformerV2(Backbone):
    """Swin Transformer V2: an image in, feature maps of strides 4, 8, 16 and 32 out.

    All arguments of mmpretrain's class of this name mean the same here, with the same defaults but
    for those of ``pad_small_map`` and ``pretrained_window_sizes``. Images may have any size: maps
    are padded to whole windows, windows never shrink, and odd blocks always shift them. Unlike
    mmpretrain's, stochastic depth drops the normalised branches, as in the authors' code.

    Args:
        arch: 'tiny', 'small', 'base', 'large', 'huge', 'giant', or a dict of ``embed_dims``,
            ``depths``, ``num_heads`` and ``extra_norm_every_n_blocks``.
        img_size: image size (height, width) of the absolute position embedding, pixels.
        patch_size: side of a patch in pixels.
        in_channels: channels of the image.
        window_size: side M of a window in tokens, or one for each stage.
        drop_rate: dropout of tokens after the patch embedding.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        out_indices: stages whose feature maps are returned; detectors need (0, 1, 2, 3).
        use_abs_pos_embed: add a learned absolute position embedding, interpolated to the input.
        interpolate_mode: how; 'bicubic' only.
        with_cp: recompute each block in backward instead of keeping its activations.
        frozen_stages: -1 trains everything, k freezes the patch embedding and stages 0 to k.
        norm_eval: has no effect: the norms have no statistics.
        pad_small_map: has no effect, as maps are padded in any case; False is warned about.
        norm_cfg: normalisation of the output maps, as mmcv builds it; None for none.
        stage_cfgs, patch_cfg: must be empty.
        pretrained_window_sizes: side P of the windows of pretraining for each stage, 0 for M. By
            default they are read from the weights; those of timm and Hugging Face do not have them.
        init_cfg: ``dict(type='Pretrained', checkpoint=path or URL)``, or None.
        attn_impl: 'auto', 'reference', 'sdpa', 'cpu' or 'triton': who computes the attention and
            the layers around it, see :class:`~.dispatch.AttnImpl`. There are Triton kernels for
            windows of 5 to 16; with others 'triton' means 'sdpa'.
        cuda_graphs: number of input shapes, the latest used, that keep a CUDA graph of the forward
            pass for inference; 0 for none. See :mod:`~.cuda_graphs`.

    Raises:
        ValueError: an argument is unknown or does not fit the others.
    """

    native_layout = "openmmlab"

    def __init__(
        self,
        arch: str | dict = "tiny",
        img_size: int | Sequence[int] = 256,
        patch_size: int | Sequence[int] = 4,
        in_channels: int = 3,
        window_size: int | Sequence[int] = 8,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (3,),
        use_abs_pos_embed: bool = False,
        interpolate_mode: str = "bicubic",
        with_cp: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        pad_small_map: bool = True,
        norm_cfg: dict | None = dict(type="LN"),  # noqa: B006, C408
        stage_cfgs: dict | Sequence[dict] = (),
        patch_cfg: dict | None = None,
        pretrained_window_sizes: int | Sequence[int] | None = None,
        init_cfg: dict | None = None,
        attn_impl: str = "auto",
        cuda_graphs: int = 0,
        **unknown: Any,
    ) -> None:
        args = ResolvedArgsV2.resolve(type(self), locals())  # all arguments, by name
        super().__init__(args.init_cfg, args.frozen_stages)
        self.out_indices = args.out_indices
        self.num_features = list(args.channels)
        self.patch_grid = args.patch_grid
        self.pretrained_window_sizes = args.pretrained_window_sizes
        self.attn_impl = args.attn_impl
        self.cuda_graphs = CudaGraphs(args.cuda_graphs)

        self.patch_embed = PatchEmbed(
            in_channels, args.embed_dims, args.patch_size, _LAYER_NORM, args.attn_impl
        )
        self.absolute_pos_embed: nn.Parameter | None = None
        if use_abs_pos_embed:
            rows, columns = self.patch_grid
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, rows * columns, args.embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.stages = nn.ModuleList(_make_stage(args, i) for i in range(len(args.depths)))
        self.norms_of_maps = add_output_norms(self, norm_cfg, args)
        self.freeze()

    @with_cuda_graphs
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(B, in_channels, H, W)``, H, W >= 1, to ``(B, C_i, ceil(H / s_i), ceil(W / s_i))``."""
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            x = x + resize_absolute_pos_embed(
                self.absolute_pos_embed, self.patch_grid, (x.shape[1], x.shape[2])
            )
        x = self.drop_after_pos(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(self.norms_of_maps[i](getattr(self, f"norm{i}"), x))
        return tuple(outs)

    def to_native(self, state: State, own: Mapping[str, Tensor]) -> tuple[State, str, list[str]]:
        """Swin V2 weights in any known layout, with mmpretrain's names and for these windows."""
        return to_second_version(state, own, self.patch_grid, self.pretrained_window_sizes)

    def init_from_scratch(self) -> None:
        """Initialise all parameters as the official code does: every block is the identity."""
        init_linear_layers(self)
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        for part in self.modules():
            if isinstance(part, SwinBlockV2):
                for parameter in (*part.norm1.parameters(), *part.norm2.parameters()):
                    nn.init.zeros_(parameter)
            if isinstance(part, CosineWindowAttention):
                nn.init.constant_(part.logit_scale, math.log(10))
                nn.init.zeros_(part.q_bias)
                nn.init.zeros_(part.v_bias)

    def frozen_parts(self) -> Iterator[nn.Module | nn.Parameter]:
        """The patch embedding, and stages 0 to ``frozen_stages`` with their output norms."""
        yield from (self.patch_embed, self.drop_after_pos)
        if self.absolute_pos_embed is not None:
            yield self.absolute_pos_embed
        for i in range(self.frozen_stages + 1):
            yield self.stages[i]
            if i in self.out_indices:
                yield getattr(self, f"norm{i}")


def _make_stage(args: ResolvedArgsV2, i: int) -> SwinStageV2:
    """Stage i; all but the first begin with a merging."""
    rates = drop_path_rates(args.drop_path_rate, sum(args.depths))[sum(args.depths[:i]) :]
    blocks = [_make_block(args, i, j, rates[j]) for j in range(args.depths[i])]
    merging = PatchMergingV2(args.channels[i - 1], args.attn_impl) if i else None
    return SwinStageV2(merging, blocks, args.with_cp)


def _make_block(args: ResolvedArgsV2, i: int, j: int, drop_path_rate: float) -> SwinBlockV2:
    """Block j of stage i: odd ones shift their windows."""
    channels, window_size = args.channels[i], args.window_sizes[i]
    pretrained = args.pretrained_window_sizes
    attention = CosineWindowAttention(
        channels,
        args.num_heads[i],
        window_size,
        window_size // 2 if j % 2 else 0,
        pretrained[i] if pretrained else 0,
        _attn_impl(args.attn_impl, window_size),
    )
    every = args.extra_norm_every_n_blocks
    extra_norm = bool(every) and (j + 1) % every == 0
    return SwinBlockV2(attention, channels, drop_path_rate, extra_norm)


def _attn_impl(asked: AttnImpl, window_size: int) -> AttnImpl:
    """What computes windows of this size."""
    if asked.name != "triton" or window_size in WINDOW_SIZES:
        return asked
    logger.debug("attn_impl='triton' is 'sdpa' for windows of %d tokens a side", window_size)
    return replace(asked, name="sdpa")
