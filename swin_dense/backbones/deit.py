"""DeiT-S with a deconvolution pyramid: the baseline of tables 2b and 3 (arXiv 2103.14030).

The paper says that hierarchical maps were made "using deconvolution layers" and no more; the code
was never published. What its figures establish, by counting Cascade Mask R-CNN (80 M, 889 G) and
UperNet (52 M, 1099 G): attention is global and its matrix products are counted (about 150 G of
either), every map has 384 channels, and the layers that make the pyramid weigh and cost next to
nothing. Plain 384 x 384 deconvolutions would add 1.2 to 1.8 M, which gives 81 to 82 M and 53 to
54 M; halving the channels with the stride leaves UperNet 10 G short. Depthwise deconvolutions fit
all four figures: 79.8 M, 888.3 G, 51.8 M, 1097.8 G.

Chosen, because counting cannot tell: all maps come from the last block, after the final norm;
BatchNorm and GELU between the two deconvolutions of stride 4; max pooling for stride 32.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swin_dense.backbones.announcing import announce
from swin_dense.backbones.swin_args import pair
from swin_dense.checkpoints import LoadableBackbone, load_backbone, load_checkpoint, local_file
from swin_dense.checkpoints.files import strip_prefixes
from swin_dense.checkpoints.loading import convert_before_loading
from swin_dense.checkpoints.resizing import resize_absolute_pos_embed
from swin_dense.registry import MODELS

_PATCH = 16  # the pyramid goes from this stride to the others
_STRIDES = (4, 8, 16, 32)


class Attention(nn.Module):
    """Multi-head self-attention of all tokens: ``(B, N, C) -> (B, N, C)``."""

    def __init__(
        self, channels: int, num_heads: int, qkv_bias: bool, attn_drop_rate: float, drop_rate: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, C) -> (B, N, C)``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout_p = self.attn_drop_rate if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """The two-layer perceptron of a block: ``(..., C) -> (..., C)``."""

    def __init__(self, channels: int, hidden: int, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """One pre-norm Transformer block; the names of its parameters are DeiT's."""

    def __init__(
        self, attn: Attention, mlp: FeedForward, channels: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, C) -> (B, N, C)``."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def deconvolution(channels: int) -> nn.ConvTranspose2d:
    """Depthwise 2 x 2 deconvolution that doubles a map; at first it repeats each token."""
    layer = nn.ConvTranspose2d(channels, channels, 2, stride=2, groups=channels, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def pyramid_level(index: int, channels: int, norm_cfg: dict) -> nn.Module:
    """From the stride-16 map to that of ``out_indices`` entry ``index``, stride 4 * 2**index."""
    if index == 0:
        layers = {
            "deconv1": deconvolution(channels),
            "norm": build_norm_layer(norm_cfg, channels)[1],
            "act": nn.GELU(),
            "deconv2": deconvolution(channels),
        }
        return nn.Sequential(OrderedDict(layers))
    if index == 1:
        return deconvolution(channels)
    return nn.Identity() if index == 2 else nn.MaxPool2d(2, ceil_mode=True)


@MODELS.register_module()
class DeiT(BaseModule, LoadableBackbone):
    """DeiT (arXiv 2012.12877): an image in, four maps of strides 4, 8, 16 and 32 out.

    All maps have ``embed_dims`` channels. The names of parameters are DeiT's and timm's, so the
    official weights load as they come; what is added here lies under ``pyramid``.

    Args:
        pretrain_img_size: image size (height, width) of the position embedding, pixels; the
            embedding is interpolated to any other input.
        in_channels: channels of the image.
        embed_dims, depth, num_heads: channels C, blocks and attention heads, by default DeiT-S.
        mlp_ratio: hidden channels of the perceptron over its channels.
        out_indices: maps that are returned, 0 to 3 for strides 4 to 32.
        qkv_bias: whether queries, keys and values have a bias.
        drop_rate, attn_drop_rate: dropout of tokens and of attention weights.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        norm_cfg: normalisation in the pyramid, as mmcv builds it.
        with_cp: recompute each block in backward instead of keeping its activations.
        frozen_stages: -1 trains everything, 0 freezes the embeddings, k also k blocks.
        init_cfg: ``dict(type='Pretrained', checkpoint=path or URL)``, or None.

    Raises:
        ValueError: an argument does not fit the others.
    """

    def __init__(
        self,
        pretrain_img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dims: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_cfg: dict = dict(type="BN"),  # noqa: B006, C408
        with_cp: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | None = None,
    ) -> None:
        if embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims={embed_dims}, got {num_heads}")
        if not all(0 <= i < len(_STRIDES) for i in out_indices):
            raise ValueError(f"out_indices must lie in 0..3, got {out_indices}")
        if not -1 <= frozen_stages <= depth:
            raise ValueError(f"frozen_stages must lie in -1..{depth}, got {frozen_stages}")
        if init_cfg is not None and "checkpoint" not in init_cfg:
            raise ValueError(
                f"init_cfg must be dict(type='Pretrained', checkpoint=...), got {init_cfg!r}"
            )
        super().__init__(init_cfg=init_cfg)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.new_parameter_prefixes = ("pyramid.",)
        height, width = pair("pretrain_img_size", pretrain_img_size)
        self.patch_grid = (height // _PATCH, width // _PATCH)

        projection = nn.Conv2d(in_channels, embed_dims, _PATCH, _PATCH)
        self.patch_embed = nn.ModuleDict({"proj": projection})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        tokens = 1 + self.patch_grid[0] * self.patch_grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dims))
        self.pos_drop = nn.Dropout(drop_rate)
        drop_path_rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(
                Attention(embed_dims, num_heads, qkv_bias, attn_drop_rate, drop_rate),
                FeedForward(embed_dims, int(mlp_ratio * embed_dims), drop_rate),
                embed_dims,
                rate,
            )
            for rate in drop_path_rates
        )
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.pyramid = nn.ModuleDict(
            {str(i): pyramid_level(i, embed_dims, norm_cfg) for i in self.out_indices}
        )
        # Bound as a pre-hook so that it acts whoever loads: this module, a detector, the runner.
        self.register_load_state_dict_pre_hook(_convert_weights)
        # Here too, not only in train(): DDP asks which parameters train before train() is called.
        self._freeze()

    def tokens(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W) -> (B, C, ceil(H / 16), ceil(W / 16))``, the normed tokens.

        The class token takes part in the attention, as in pretraining, and is then left out.
        """
        x = F.pad(x, (0, -x.shape[3] % _PATCH, 0, -x.shape[2] % _PATCH))
        x = self.patch_embed["proj"](x)
        b, c, h, w = x.shape
        position = resize_absolute_pos_embed(self.pos_embed[:, 1:], self.patch_grid, (h, w))
        x = x.flatten(2).transpose(1, 2) + position.flatten(1, 2)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(b, -1, -1)
        x = self.pos_drop(torch.cat((first, x), dim=1))
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.norm(x)[:, 1:].transpose(1, 2).reshape(b, c, h, w)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(B, in_channels, H, W)``, H, W >= 1, to ``(B, C, ceil(H / s_i), ceil(W / s_i))``."""
        tokens = self.tokens(x)
        outs = []
        for i in self.out_indices:
            rows, columns = (-(-side // _STRIDES[i]) for side in x.shape[2:])
            # The fine maps cover the padding of the last patches too.
            outs.append(self.pyramid[str(i)](tokens)[:, :, :rows, :columns].contiguous())
        return tuple(outs)

    init_cfg: dict[str, Any] | None
    native_layout = "DeiT"

    def to_native(
        self, state: dict[str, Tensor], own: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], str, list[str]]:
        """Resize the position embedding, see :class:`~swin_dense.checkpoints.LoadableBackbone`.

        Takes a square grid of any size after the class token and, in distilled weights, another
        token, which is dropped.
        """
        state = strip_prefixes(state)
        layout = self.native_layout if "cls_token" in state else "unknown"
        value, wanted = state.get("pos_embed"), own["pos_embed"]
        if value is None or value.shape == wanted.shape or value.shape[2] != wanted.shape[2]:
            return state, layout, []
        side = isqrt(value.shape[1])
        grid = resize_absolute_pos_embed(value[:, -(side**2) :], (side, side), self.patch_grid)
        state["pos_embed"] = torch.cat((value[:, :1], grid.flatten(1, 2)), dim=1)
        return state, layout, ["pos_embed"]

    def init_weights(self) -> None:
        """Initialise from ``init_cfg``'s checkpoint, or as DeiT does from scratch.

        Raises:
            UserError: the checkpoint cannot be had or read, or holds little of this backbone.
        """
        if self.init_cfg is None:
            self._init_from_scratch()
        else:
            source = self.init_cfg["checkpoint"]
            announce(load_backbone(self, load_checkpoint(local_file(source)), source))
        self._is_init = True

    def _init_from_scratch(self) -> None:
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def train(self, mode: bool = True) -> DeiT:
        """Set training mode; what is frozen stays in evaluation mode. Returns self."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.patch_embed, self.pos_drop, *self.blocks[: self.frozen_stages]):
            module.eval().requires_grad_(False)
        self.cls_token.requires_grad_(False)
        self.pos_embed.requires_grad_(False)


def _convert_weights(module: DeiT, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Pre-hook of ``load_state_dict``: takes a position embedding of any size."""
    report = convert_before_loading(module, state_dict, prefix)
    if report is not None:
        announce(report)
