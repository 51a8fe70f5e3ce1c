"""DeiT-S with a deconvolution pyramid: the baseline of tables 2b and 3 (arXiv 2103.14030).

The paper says that hierarchical feature maps were made "using deconvolution layers" and no more;
the code was never published. What its counts establish, for Cascade Mask R-CNN (80 M parameters,
889 G FLOPs) and UperNet (52 M, 1099 G): attention is global and its matrix products are counted
(about 150 G in each), every feature map has 384 channels, and the layers of the pyramid cost next
to nothing. Plain 384 x 384 deconvolutions would add 1.2 to 1.8 M, which gives 81 to 82 M and 53 to
54 M; halving the channels with the stride leaves UperNet 10 G short. Depthwise deconvolutions fit
all four counts: 79.8 M, 888.3 G, 51.8 M, 1097.8 G.

Chosen, because counting cannot tell: all feature maps come from the last block, after the final
norm; BatchNorm and GELU between the two deconvolutions of stride 4; max pooling for stride 32.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from swin_dense.backbones.base import Backbone, init_linear_layers
from swin_dense.backbones.layers import GlobalAttention, drop_path_rates, run_blocks
from swin_dense.backbones.swin_args import check_stages, expect, pair, resolve_init_cfg
from swin_dense.checkpoints.files import strip_prefixes
from swin_dense.checkpoints.layouts import State
from swin_dense.checkpoints.resizing import resize_absolute_pos_embed
from swin_dense.ops.dispatch import AttnImpl
from swin_dense.registry import MODELS

_PATCH = 16  # the pyramid goes from this stride to the others
_STRIDES = (4, 8, 16, 32)


class Mlp(nn.Module):
    """The two-layer MLP of a block: ``(..., C) -> (..., C)``."""

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
        self, attn: GlobalAttention, mlp: Mlp, channels: int, drop_path_rate: float
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
    """Depthwise 2 x 2 deconvolution that doubles the size; it starts by repeating each token."""
    layer = nn.ConvTranspose2d(channels, channels, 2, stride=2, groups=channels, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def pyramid_level(index: int, channels: int, norm_cfg: dict) -> nn.Module:
    """From stride 16 to that of ``out_indices`` entry ``index``, stride 4 * 2**index."""
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
class DeiT(Backbone):
    """DeiT (arXiv 2012.12877): an image in, four feature maps of strides 4, 8, 16 and 32 out.

    All feature maps have ``embed_dims`` channels. Parameters are named as in DeiT and timm, so the
    official weights load as they are; what is added here is below ``pyramid``.

    Args:
        pretrain_img_size: image size (height, width) of the position embedding, pixels; the
            embedding is interpolated to any other input.
        in_channels: channels of the image.
        embed_dims, depth, num_heads: channels C, blocks and attention heads, by default DeiT-S.
        mlp_ratio: hidden channels of the MLP over its channels.
        out_indices: feature maps that are returned, 0 to 3 for strides 4 to 32.
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

    native_layout = "DeiT"
    new_parameter_prefixes = ("pyramid.",)

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
        fits = embed_dims % num_heads == 0
        expect(fits, f"num_heads must divide embed_dims={embed_dims}", num_heads)
        check_stages(out_indices, frozen_stages, len(_STRIDES), depth)
        super().__init__(resolve_init_cfg(init_cfg), frozen_stages)
        self.out_indices = tuple(out_indices)
        self.with_cp = with_cp
        height, width = pair("pretrain_img_size", pretrain_img_size)
        self.patch_grid = (height // _PATCH, width // _PATCH)

        projection = nn.Conv2d(in_channels, embed_dims, _PATCH, _PATCH)
        self.patch_embed = nn.ModuleDict({"proj": projection})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        tokens = 1 + self.patch_grid[0] * self.patch_grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dims))
        self.pos_drop = nn.Dropout(drop_rate)
        attention: dict[str, Any] = {
            "qkv_bias": qkv_bias,
            "attn_drop_rate": attn_drop_rate,
            "drop_rate": drop_rate,
            "attn_impl": AttnImpl("auto"),
        }
        self.blocks = nn.ModuleList(
            Block(
                GlobalAttention(embed_dims, num_heads, **attention),
                Mlp(embed_dims, int(mlp_ratio * embed_dims), drop_rate),
                embed_dims,
                rate,
            )
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.pyramid = nn.ModuleDict(
            {str(i): pyramid_level(i, embed_dims, norm_cfg) for i in self.out_indices}
        )
        self.freeze()

    def tokens(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W) -> (B, C, ceil(H / 16), ceil(W / 16))``, the normed tokens.

        The class token takes part in the attention, as in pretraining, and is then dropped.
        """
        x = F.pad(x, (0, -x.shape[3] % _PATCH, 0, -x.shape[2] % _PATCH))
        x = self.patch_embed["proj"](x)
        b, c, h, w = x.shape
        position = resize_absolute_pos_embed(self.pos_embed[:, 1:], self.patch_grid, (h, w))
        x = x.flatten(2).transpose(1, 2) + position.flatten(1, 2)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(b, -1, -1)
        x = self.pos_drop(torch.cat((first, x), dim=1))
        x = run_blocks(self.blocks, x, self.with_cp)
        return self.norm(x)[:, 1:].transpose(1, 2).reshape(b, c, h, w)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(B, in_channels, H, W)``, H, W >= 1, to ``(B, C, ceil(H / s_i), ceil(W / s_i))``."""
        tokens = self.tokens(x)
        outs = []
        for i in self.out_indices:
            rows, columns = ((side + _STRIDES[i] - 1) // _STRIDES[i] for side in x.shape[2:])
            # The fine feature maps include the padding of the last patches.
            outs.append(self.pyramid[str(i)](tokens)[:, :, :rows, :columns].contiguous())
        return tuple(outs)

    def to_native(self, state: State, own: Mapping[str, Tensor]) -> tuple[State, str, list[str]]:
        """DeiT's and timm's weights, the position embedding at this model's grid.

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

    def init_from_scratch(self) -> None:
        """Initialise all parameters as DeiT's code does."""
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)
        init_linear_layers(self.blocks)

    def frozen_parts(self) -> Iterator[nn.Module | nn.Parameter]:
        """The embeddings, and the first ``frozen_stages`` blocks."""
        yield from (self.patch_embed, self.pos_drop, self.cls_token, self.pos_embed)
        yield from self.blocks[: self.frozen_stages]
