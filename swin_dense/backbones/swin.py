"""Swin Transformer as a backbone for dense prediction (arXiv 2103.14030, section 3).

Feature maps are ``(B, H, W, C)`` inside, of any size, and returned as ``(B, C, H, W)``. The names
of parameters are OpenMMLab's, so state dicts pass between this class and theirs unchanged.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from swin_dense.backbones import tuning
from swin_dense.backbones.base import Backbone, init_linear_layers
from swin_dense.backbones.cuda_graphs import CudaGraphs, with_cuda_graphs
from swin_dense.backbones.layers import (
    Attention,
    BlockOps,
    FeedForward,
    GlobalAttention,
    PatchEmbed,
    add_output_norms,
    drop_path_rates,
    fusable_block,
    fusable_layer,
    run_blocks,
)
from swin_dense.backbones.swin_args import ResolvedArgs
from swin_dense.checkpoints.layouts import State
from swin_dense.checkpoints.loading import convert_and_resize
from swin_dense.checkpoints.resizing import resize_absolute_pos_embed
from swin_dense.ops.block import Linear, Norm, neighbours, norm_linear, proj_mlp
from swin_dense.ops.dispatch import AttnImpl, Decision
from swin_dense.ops.sliding_attention import sliding_window_attention
from swin_dense.ops.window_attention import position_bias, shifted_window_attention
from swin_dense.ops.window_attention.windows import relative_position_index
from swin_dense.registry import MODELS


class WindowAttention(Attention):
    """Multi-head self-attention in (shifted) windows with relative position bias (equation 4)."""

    relative_position_index: Tensor

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        shift_size: int,
        use_rel_pos_bias: bool,
        **common: Any,
    ) -> None:
        super().__init__(channels, num_heads, **common)
        self.window_size = window_size
        self.shift_size = shift_size
        self.relative_position_bias_table: nn.Parameter | None = None
        if use_rel_pos_bias:
            table = torch.zeros((2 * window_size - 1) ** 2, num_heads)
            self.relative_position_bias_table = nn.Parameter(table)
            self.register_buffer("relative_position_index", relative_position_index(window_size))

    def position_bias(self) -> Tensor | None:
        """``(heads, N, N)``, the table's entries for every pair of tokens; None without a table."""
        table = self.relative_position_bias_table
        return None if table is None else position_bias(table, self.relative_position_index)

    def attend(self, qkv: Tensor, impl: AttnImpl | None = None) -> Tensor:
        """Attention alone: ``(B, H, W, 3C)`` of the qkv layer to ``(B, H, W, C)``."""
        return shifted_window_attention(
            qkv,
            self.qkv.bias,
            self.position_bias(),
            num_heads=self.num_heads,
            window_size=self.window_size,
            shift_size=self.shift_size,
            scale=self.scale,
            dropout_p=self.attn_drop_rate if self.training else 0.0,
            impl=impl or self.attn_impl,
        )


class SlidingWindowAttention(Attention):
    """Multi-head self-attention of every token with the k x k tokens around it (tables 5, 6)."""

    def __init__(
        self, channels: int, num_heads: int, side: int, use_rel_pos_bias: bool, **common: Any
    ) -> None:
        super().__init__(channels, num_heads, **common)
        self.side = side
        self.position_bias_table: nn.Parameter | None = None
        if use_rel_pos_bias:
            self.position_bias_table = nn.Parameter(torch.zeros(side**2, num_heads))

    def attend(self, qkv: Tensor, impl: AttnImpl | None = None) -> Tensor:
        """Attention alone: ``(B, H, W, 3C)`` of the qkv layer to ``(B, H, W, C)``."""
        return sliding_window_attention(
            qkv,
            self.position_bias_table,
            num_heads=self.num_heads,
            window_size=self.side,
            scale=self.scale,
            dropout_p=self.attn_drop_rate if self.training else 0.0,
            impl=impl or self.attn_impl,
        )


class SwinBlock(nn.Module):
    """One Transformer block on ``(B, H, W, C)`` (figure 3b, equation 3)."""

    def __init__(
        self,
        attention: nn.Module,
        channels: int,
        drop_path_rate: float,
        args: ResolvedArgs,
    ) -> None:
        super().__init__()
        hidden = int(args.mlp_ratio * channels)
        self.norm1 = build_norm_layer(args.norm_cfg, channels)[1]
        self.attn = nn.ModuleDict({"w_msa": attention})
        self.norm2 = build_norm_layer(args.norm_cfg, channels)[1]
        self.ffn = FeedForward(channels, hidden, args.act_cfg, args.drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.ops = Decision(self, _block_ops)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        ops = self.ops.current(self, x)
        if ops is None:  # 'reference', tracing, or layers that compute something special
            return self._by_modules(x)
        choice = ops.choice if x.device.type in tuning.DEVICES else None
        impl = ops.impl if choice is None else choice.of(x)
        if not impl.fused:
            return self._by_modules(x, impl)
        # The same with fewer passes over memory, and less kept for backward.
        qkv, x = norm_linear(x, ops.norm1, ops.qkv, triton=impl.triton)
        attended = ops.attend(qkv, impl)
        scales = (
            drop_path_scale(self.drop_path, attended),
            drop_path_scale(self.drop_path, attended),
        )
        return proj_mlp(x, attended, ops.proj, ops.norm2, ops.fc1, ops.fc2, scales, impl.triton)

    def _by_modules(self, x: Tensor, *impl: AttnImpl) -> Tensor:
        x = x + self.drop_path(self.attn["w_msa"](self.norm1(x), *impl))
        return x + self.drop_path(self.ffn(self.norm2(x)))


def drop_path_scale(drop_path: Any, branch: Tensor) -> Tensor | None:
    """Factor of a branch in stochastic depth for every image, ``(B,)`` fp32; None for 1."""
    if not (drop_path.drop_prob and drop_path.training):
        return None
    # The layer's own arithmetic, in the branch's precision: the same branches are dropped.
    keep = 1 - drop_path.drop_prob
    drawn = keep + torch.rand(len(branch), dtype=branch.dtype, device=branch.device)
    return (drawn >= 1).to(torch.promote_types(branch.dtype, torch.float32)).div_(keep)


def _block_ops(block: SwinBlock) -> BlockOps | None:
    """Who computes a block: the functions of ops.block on its layers, or None for its modules."""
    attention = block.attn["w_msa"]
    if type(attention) not in (WindowAttention, SlidingWindowAttention, GlobalAttention):
        return None
    ops = fusable_block(block.norm1, attention, block.norm2, block.ffn, block.drop_path)
    if ops is None or ops.impl.name != "auto":
        return ops
    return ops._replace(choice=tuning.Choice(block, ops.qkv.weight))


class PatchMerging(nn.Module):
    """Join 2 x 2 neighbours: ``(B, H, W, C) -> (B, ceil(H / s), ceil(W / s), 2C)``, stride s.

    Also returns its input: what else uses that sends its gradient through here, where it is added
    at no cost.
    """

    def __init__(
        self, channels: int, stride: int, norm_cfg: dict | None, attn_impl: AttnImpl
    ) -> None:
        super().__init__()
        self.stride = stride
        self.attn_impl = attn_impl
        self.norm = build_norm_layer(norm_cfg, 4 * channels)[1] if norm_cfg else nn.Identity()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.ops = Decision(self, _merging_ops)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, H, W, C)`` to ``(B, ceil(H / s), ceil(W / s), 2C)`` and itself."""
        ops = self.ops.current(self, x)
        if ops is None:
            return self._by_modules(x)
        norm, reduction, choice = ops
        tuned = choice if x.device.type in tuning.DEVICES else None
        impl = self.attn_impl if tuned is None else tuned.of(x)
        if not impl.fused:
            return self._by_modules(x)
        return norm_linear(x, norm, reduction, self.stride, impl.triton)

    def _by_modules(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.reduction(self.norm(neighbours(x, self.stride))), x


def _merging_ops(merging: PatchMerging) -> tuple[Norm, Linear, tuning.Choice | None] | None:
    """Who computes a merging: ops.block on its norm and reduction, or None for its modules."""
    norm, reduction = fusable_layer(merging.norm), fusable_layer(merging.reduction)
    if not (merging.attn_impl.fused and norm and reduction):
        return None
    auto = merging.attn_impl.name == "auto"
    return norm, reduction, tuning.Choice(merging, reduction.weight) if auto else None


class SwinStage(nn.Module):
    """Blocks of one resolution, and the merging that leads to the next (figure 3a)."""

    def __init__(
        self,
        blocks: Iterable[SwinBlock],
        global_block: SwinBlock | None,
        downsample: PatchMerging | None,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.global_block = global_block
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, H, W, C)`` to this stage's feature map, and the merged one for the next stage.

        The two are the same after the last stage.
        """
        extra = () if self.global_block is None else (self.global_block,)
        x = run_blocks((*self.blocks, *extra), x, self.with_cp)
        if self.downsample is None:
            return x, x
        merged, x = self.downsample(x)
        return x, merged


@MODELS.register_module()
class SwinTransformer(Backbone):
    """Swin Transformer: an image in, four feature maps of strides 4, 8, 16 and 32 out.

    All arguments of mmdet's and mmseg's class of this name mean the same here, with the same
    defaults. Ours are ``arch``, ``attn_impl``, ``global_attention``, ``cuda_graphs`` and the
    ablations of the paper's tables 4 and 6.

    Args:
        pretrain_img_size: image size (height, width) of the absolute position embedding, pixels.
        in_channels: channels of the image.
        embed_dims: channels C of the first stage; stage i has C * 2**i.
        patch_size: side of a patch in pixels, equal to ``strides[0]``.
        window_size: side M of a window in tokens.
        mlp_ratio: hidden channels of the MLP over its channels.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        strides: of the patch embedding and of each patch merging.
        out_indices: stages whose feature maps are returned.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: factor of the dot products, by default (C / heads) ** -0.5.
        patch_norm: LayerNorm after the patch embedding and in the patch merging.
        drop_rate, attn_drop_rate: dropout of tokens and of attention weights.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        use_abs_pos_embed: add a learned absolute position embedding, interpolated to the input.
        act_cfg, norm_cfg: activation and normalisation, as mmcv builds them.
        with_cp: recompute each block in backward instead of keeping its activations.
        pretrained: former name of ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        convert_weights: has no effect; the official layout is recognised when it is loaded.
        frozen_stages: -1 trains everything, 0 freezes the patch embedding, k also k stages.
        init_cfg: ``dict(type='Pretrained', checkpoint=path or URL)``, or None. With
            ``bias_tables='geometric'`` weights of other windows are resized as the authors resize
            SimMIM's, see :func:`swin_dense.checkpoints.resizing.stretch_bias_table`.
        arch: 'tiny', 'small', 'base' or 'large' instead of sizes, depths and heads (section 3.3).
        attn_impl: 'auto', 'reference', 'sdpa', 'cpu' or 'triton': who computes the attention and
            the layers around it, see :class:`~.dispatch.AttnImpl`; 'auto' is what is fastest on a
            GPU, see :mod:`~.tuning`, and 'cpu' on a CPU.
        use_shift: shift the windows of every second block; False is "w/o shifting" in table 4.
        use_rel_pos_bias: add the relative position bias to the scores; False with
            ``use_abs_pos_embed`` is "abs. pos." in table 4, without it "no pos.".
        use_dot_product: False leaves only the bias as scores, "rel. pos. w/o app." in table 4.
        global_attention: end the last stage with a block that attends to the whole feature map, as
            HTC++ does (section 4.2); no classifier's checkpoint has it, so it starts at random.
        cuda_graphs: number of input shapes, the latest used, that keep a CUDA graph of the forward
            pass for inference; 0 for none. See :mod:`~.cuda_graphs`.
        attention: 'window', or 'sliding': every token attends to the ``window_size`` squared tokens
            around it, in table 6; its position bias starts untrained, as no weights were released.

    Raises:
        ValueError: an argument is unknown or does not fit the others.
    """

    native_layout = "openmmlab"

    def __init__(
        self,
        pretrain_img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int | Sequence[int] = 4,
        window_size: int = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: dict = dict(type="GELU"),  # noqa: B006, C408
        norm_cfg: dict = dict(type="LN"),  # noqa: B006, C408
        with_cp: bool = False,
        pretrained: str | None = None,
        convert_weights: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | None = None,
        arch: str | None = None,
        attn_impl: str = "auto",
        use_shift: bool = True,
        use_rel_pos_bias: bool = True,
        use_dot_product: bool = True,
        global_attention: bool = False,
        cuda_graphs: int = 0,
        attention: str = "window",
        **unknown: Any,
    ) -> None:
        args = ResolvedArgs.resolve(type(self), locals())  # all arguments, by name
        super().__init__(args.init_cfg, args.frozen_stages)
        self.convert_weights = convert_weights
        self.out_indices = args.out_indices
        self.num_features = list(args.channels)
        self.patch_grid = args.patch_grid
        self.attn_impl = args.attn_impl
        self.cuda_graphs = CudaGraphs(args.cuda_graphs)

        self.patch_embed = PatchEmbed(
            in_channels, args.embed_dims, args.patch_size, args.patch_norm_cfg, args.attn_impl
        )
        self.absolute_pos_embed: nn.Parameter | None = None
        if use_abs_pos_embed:
            rows, columns = self.patch_grid
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, rows * columns, args.embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.stages = nn.ModuleList(self._make_stage(args, i) for i in range(len(args.depths)))
        if global_attention:
            self.new_parameter_prefixes = (f"stages.{len(args.depths) - 1}.global_block.",)
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
            out, x = stage(x)
            if i in self.out_indices:
                outs.append(self.norms_of_maps[i](getattr(self, f"norm{i}"), out))
        return tuple(outs)

    def to_native(self, state: State, own: Mapping[str, Tensor]) -> tuple[State, str, list[str]]:
        """Swin weights in any known layout, with OpenMMLab's names and at this backbone's sizes."""
        how = (self.init_cfg or {}).get("bias_tables", "bicubic")
        return convert_and_resize(state, own, self.patch_grid, how)

    def init_from_scratch(self) -> None:
        """Initialise all parameters as the official code does."""
        for name, parameter in self.named_parameters():
            if name.endswith(("position_bias_table", "absolute_pos_embed")):
                nn.init.trunc_normal_(parameter, std=0.02)
        init_linear_layers(self)

    def frozen_parts(self) -> Iterator[nn.Module | nn.Parameter]:
        """The patch embedding, and the first ``frozen_stages`` stages with their output norms."""
        yield from (self.patch_embed, self.drop_after_pos)
        if self.absolute_pos_embed is not None:
            yield self.absolute_pos_embed
        for i in range(self.frozen_stages):
            yield self.stages[i]
            if i in self.out_indices:
                yield getattr(self, f"norm{i}")

    def _make_stage(self, args: ResolvedArgs, i: int) -> SwinStage:
        """Stage i; the last one has no merging and, if asked for, a block of global attention."""
        channels = args.channels[i]
        rates = drop_path_rates(args.drop_path_rate, sum(args.depths))[sum(args.depths[:i]) :]
        blocks = [
            SwinBlock(self.make_attention(args, i, j), channels, rates[j], args)
            for j in range(args.depths[i])
        ]
        if i < len(args.depths) - 1:
            stride = args.strides[i + 1]
            merging = PatchMerging(channels, stride, args.patch_norm_cfg, args.attn_impl)
            return SwinStage(blocks, None, merging, args.with_cp)
        extra = None
        if args.global_attention:
            attention = GlobalAttention(channels, args.num_heads[i], **_common(args))
            extra = SwinBlock(attention, channels, rates[-1], args)
        return SwinStage(blocks, extra, None, args.with_cp)

    def make_attention(self, args: ResolvedArgs, i: int, j: int) -> nn.Module:
        """Of block j of stage i: odd ones shift their windows."""
        sizes = args.channels[i], args.num_heads[i], args.window_size
        common = _common(args) | ({} if args.use_dot_product else {"scale": 0.0})
        if args.attention == "sliding":
            return SlidingWindowAttention(*sizes, args.use_rel_pos_bias, **common)
        shift_size = args.window_size // 2 if args.use_shift and j % 2 else 0
        return WindowAttention(*sizes, shift_size, args.use_rel_pos_bias, **common)


def _common(args: ResolvedArgs) -> dict[str, Any]:
    """What all kinds of attention take."""
    return {
        "qkv_bias": args.qkv_bias,
        "scale": args.qk_scale or None,
        "attn_drop_rate": args.attn_drop_rate,
        "drop_rate": args.drop_rate,
        "attn_impl": args.attn_impl,
    }
