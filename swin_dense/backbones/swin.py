"""Swin Transformer as a backbone for dense prediction (arXiv 2103.14030, section 3).

Maps are ``(B, H, W, C)`` inside and of any size; they leave as ``(B, C, H, W)``. The names of
parameters are OpenMMLab's, so state dicts pass between this class and theirs unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swin_dense.backbones import fused_block
from swin_dense.backbones.announcing import announce
from swin_dense.backbones.attention_layers import GlobalAttention, WindowAttention
from swin_dense.backbones.cuda_graphs import CudaGraphs, graphed
from swin_dense.backbones.feed_forward import FeedForward
from swin_dense.backbones.swin_args import check_arguments, resolve_arch
from swin_dense.checkpoints import LoadableBackbone, load_backbone, load_checkpoint, local_file
from swin_dense.checkpoints.loading import convert_and_resize, convert_before_loading
from swin_dense.checkpoints.resizing import resize_absolute_pos_embed
from swin_dense.ops.block import norm_linear
from swin_dense.registry import MODELS


class PatchEmbed(nn.Module):
    """Split an image into patches and embed each: ``(B, in, H, W) -> (B, H', W', C)``.

    H' = ceil(H / patch_size): the last patches are filled up with zeros.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int, norm_cfg: dict | None
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        self.norm = build_norm_layer(norm_cfg, embed_dims)[1] if norm_cfg else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W) -> (B, H', W', C)``."""
        h, w = x.shape[-2:]
        rows, columns = (-(-size // self.patch_size) for size in (h, w))
        bottom, right = rows * self.patch_size - h, columns * self.patch_size - w
        traced = torch.compiler.is_compiling()
        if traced or bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        # The compiler ties the gradient of a convolution to one size, that of a product to none.
        embedded = self._product(x) if traced else self.projection(x).permute(0, 2, 3, 1)
        return self.norm(embedded)

    def _product(self, x: Tensor) -> Tensor:
        """The projection as a matrix product, ``(B, H', W', C)``."""
        side = self.patch_size
        patches = x.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3), self.projection.weight.flatten(1), self.projection.bias)


class PatchMerging(nn.Module):
    """Join 2 x 2 neighbours: ``(B, H, W, C) -> (B, ceil(H / s), ceil(W / s), 2C)``, stride s."""

    def __init__(self, channels: int, stride: int, norm_cfg: dict | None) -> None:
        super().__init__()
        self.stride = stride
        self.norm = build_norm_layer(norm_cfg, 4 * channels)[1] if norm_cfg else nn.Identity()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, ceil(H / s), ceil(W / s), 2C)``."""
        layers = fused_block.plain_merging(self, x)
        if layers is not None:
            return norm_linear(x, *layers, arrange=self.neighbours)
        return self.reduction(self.norm(self.neighbours(x)))

    def neighbours(self, x: Tensor) -> Tensor:
        """The channels of 2 x 2 tokens side by side: ``(B, ceil(H / s), ceil(W / s), 4C)``."""
        h, w = x.shape[1:3]
        rows, columns = (-(-size // self.stride) for size in (h, w))
        reach_h, reach_w = ((n - 1) * self.stride + 1 for n in (rows, columns))
        beyond = max(self.stride, 2) - 1  # whole steps, and a neighbour for the last token at least
        bottom, right = reach_h + beyond - h, reach_w + beyond - w
        if torch.compiler.is_compiling() or bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        neighbours = [
            x[:, i : i + reach_h : self.stride, j : j + reach_w : self.stride]
            for i in (0, 1)
            for j in (0, 1)
        ]
        # OpenMMLab's channel order is nn.Unfold's: the four neighbours of a channel are adjacent.
        return torch.stack(neighbours, dim=-1).flatten(-2)


class SwinBlock(nn.Module):
    """One Transformer block on ``(B, H, W, C)`` (figure 3b, equation 3)."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        attention: WindowAttention | GlobalAttention,
        drop_rate: float,
        drop_path_rate: float,
        act_cfg: dict,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.attn = nn.ModuleDict({"w_msa": attention})
        self.norm2 = build_norm_layer(norm_cfg, channels)[1]
        self.ffn = FeedForward(channels, hidden, act_cfg, drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        layers = fused_block.plain_layers(self, x)
        if layers is not None:  # the same in fewer passes over memory
            return fused_block.forward(layers, x)
        x = x + self.drop_path(self.attn["w_msa"](self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class SwinStage(nn.Module):
    """Blocks of one resolution, and the merging that leads to the next (figure 3a)."""

    def __init__(
        self,
        blocks: Sequence[SwinBlock],
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
        """``(B, H, W, C)`` to this stage's map, and to the merged map that the next one takes.

        The two are the same after the last stage.
        """
        extra = () if self.global_block is None else (self.global_block,)
        for block in (*self.blocks, *extra):
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


@MODELS.register_module()
class SwinTransformer(BaseModule, LoadableBackbone):
    """Swin Transformer: an image in, four maps of strides 4, 8, 16 and 32 out.

    All arguments of mmdet's and mmseg's class of this name mean the same here, with the same
    defaults. Ours are ``arch``, ``attn_impl``, ``global_attention``, ``cuda_graphs`` and the
    ablations of the paper's table 4.

    Args:
        pretrain_img_size: image size (height, width) of the absolute position embedding, pixels.
        in_channels: channels of the image.
        embed_dims: channels C of the first stage; stage i has C * 2**i.
        patch_size: side of a patch in pixels, equal to ``strides[0]``.
        window_size: side M of a window in tokens.
        mlp_ratio: hidden channels of the perceptron over its channels.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        strides: of the patch embedding and of each patch merging.
        out_indices: stages whose maps are returned.
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
        init_cfg: ``dict(type='Pretrained', checkpoint=path or URL)``, or None.
        arch: 'tiny', 'small', 'base' or 'large' instead of sizes, depths and heads (section 3.3).
        attn_impl: 'auto', 'triton', 'sdpa', 'cpu', 'reference', see :mod:`~.ops.window_attention`.
            'triton' means the rest of a block too, see :mod:`~.ops.block`; with 'reference' a
            block is its plain modules.
        use_shift: shift the windows of every second block; False is "w/o shifting" in table 4.
        use_rel_pos_bias: add the relative position bias to the scores; False with
            ``use_abs_pos_embed`` is "abs. pos." in table 4, without it "no pos.".
        use_dot_product: False leaves only the bias as scores, "rel. pos. w/o app." in table 4.
        global_attention: end the last stage with a block whose attention takes in the whole map, as
            HTC++ does (section 4.2); no classifier's checkpoint has it, so it starts at random.
        cuda_graphs: how many input shapes keep a CUDA graph of the forward pass for inference, the
            latest used; 0 for none. See :mod:`swin_dense.backbones.cuda_graphs`.

    Raises:
        ValueError: an argument is unknown or does not fit the others.
    """

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
        **unknown: Any,
    ) -> None:
        embed_dims, depths, num_heads = resolve_arch(arch, embed_dims, depths, num_heads)
        checked = check_arguments(
            type(self),
            unknown,
            pretrain_img_size=pretrain_img_size,
            patch_size=patch_size,
            window_size=window_size,
            embed_dims=embed_dims,
            depths=depths,
            num_heads=num_heads,
            strides=strides,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            rates=(drop_rate, attn_drop_rate, drop_path_rate),
            pretrained=pretrained,
            init_cfg=init_cfg,
            attn_impl=attn_impl,
            use_rel_pos_bias=use_rel_pos_bias,
            use_dot_product=use_dot_product,
            global_attention=global_attention,
            cuda_graphs=cuda_graphs,
        )
        if pretrained is not None:
            warnings.warn("pretrained=... is the former name of init_cfg", stacklevel=2)
            init_cfg = {"type": "Pretrained", "checkpoint": pretrained}
        super().__init__(init_cfg=init_cfg)
        self.convert_weights = convert_weights
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.num_features = [embed_dims * 2**i for i in range(len(depths))]
        self.patch_grid = checked.patch_grid
        self.cuda_graphs = CudaGraphs(cuda_graphs)

        patch_norm_cfg = norm_cfg if patch_norm else None
        self.patch_embed = PatchEmbed(in_channels, embed_dims, checked.patch_size, patch_norm_cfg)
        self.absolute_pos_embed: nn.Parameter | None = None
        if use_abs_pos_embed:
            rows, columns = self.patch_grid
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, rows * columns, embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)

        drop_path_rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for i, channels in enumerate(self.num_features):
            scale = qk_scale or (channels // num_heads[i]) ** -0.5
            blocks = [
                SwinBlock(
                    channels,
                    int(mlp_ratio * channels),
                    WindowAttention(
                        channels,
                        num_heads[i],
                        window_size,
                        window_size // 2 if use_shift and j % 2 else 0,
                        qkv_bias=qkv_bias,
                        scale=scale if use_dot_product else 0.0,
                        use_rel_pos_bias=use_rel_pos_bias,
                        attn_drop_rate=attn_drop_rate,
                        drop_rate=drop_rate,
                        attn_impl=attn_impl,
                    ),
                    drop_rate,
                    drop_path_rates[sum(depths[:i]) + j],
                    act_cfg,
                    norm_cfg,
                )
                for j in range(depths[i])
            ]
            last = i == len(depths) - 1
            merging = None if last else PatchMerging(channels, strides[i + 1], patch_norm_cfg)
            global_block = None
            if last and global_attention:
                global_block = SwinBlock(
                    channels,
                    int(mlp_ratio * channels),
                    GlobalAttention(
                        channels,
                        num_heads[i],
                        qkv_bias=qkv_bias,
                        scale=scale,
                        attn_drop_rate=attn_drop_rate,
                        drop_rate=drop_rate,
                        attn_impl=attn_impl,
                    ),
                    drop_rate,
                    drop_path_rates[-1],
                    act_cfg,
                    norm_cfg,
                )
                # What a checkpoint may lack and still count as complete.
                self.new_parameter_prefixes = (f"stages.{i}.global_block.",)
            self.stages.append(SwinStage(blocks, global_block, merging, with_cp))
        for i in self.out_indices:
            self.add_module(f"norm{i}", build_norm_layer(norm_cfg, self.num_features[i])[1])

        # Bound as a pre-hook so that it acts whoever loads: this module, a detector, the runner.
        self.register_load_state_dict_pre_hook(_convert_weights)
        # Here too, not only in train(): DDP asks which parameters train before train() is called.
        self._freeze()

    @graphed
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
                outs.append(getattr(self, f"norm{i}")(out).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    init_cfg: dict[str, Any] | None
    native_layout = "openmmlab"

    def to_native(
        self, state: dict[str, Tensor], own: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], str, list[str]]:
        """See :class:`~swin_dense.checkpoints.LoadableBackbone`."""
        return convert_and_resize(state, own, self.patch_grid)

    def init_weights(self) -> None:
        """Initialise from ``init_cfg``'s checkpoint, or as the official code does from scratch.

        Raises:
            UserError: the checkpoint cannot be had or read, or holds little of this backbone.
        """
        self._init_from_scratch()  # with a checkpoint too: it need not have every parameter
        if self.init_cfg is not None:
            source = self.init_cfg["checkpoint"]
            report = load_backbone(self, load_checkpoint(local_file(source)), source)
            announce(report)
        self._is_init = True

    def _init_from_scratch(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("relative_position_bias_table", "absolute_pos_embed")):
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def train(self, mode: bool = True) -> SwinTransformer:
        """Set training mode; frozen stages stay in evaluation mode. Returns self."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.patch_embed, self.drop_after_pos]
        for i in range(self.frozen_stages):
            frozen.append(self.stages[i])
            if i in self.out_indices:
                frozen.append(getattr(self, f"norm{i}"))
        for module in frozen:
            module.eval().requires_grad_(False)
        if self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad_(False)


def _convert_weights(
    module: SwinTransformer, state_dict: dict[str, Any], prefix: str, *_: object
) -> None:
    """Pre-hook of ``load_state_dict``: takes weights in any layout and size."""
    report = convert_before_loading(module, state_dict, prefix)
    if report is not None:
        announce(report)
