"""Swin-MLP as a backbone for dense prediction.

It is the Swin Transformer with a matrix of N x N numbers for every head in place of attention
("Swin-Mixer" in appendix A3.3 of arXiv 2103.14030). Nobody has published a detector or segmentor
with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from swin_dense.backbones.swin import SwinTransformer
from swin_dense.backbones.swin_args import ResolvedArgs, check_names, expect
from swin_dense.checkpoints.layouts import State
from swin_dense.checkpoints.swin_mlp import to_swin_mlp
from swin_dense.registry import MODELS

_NAMES = ("embed_dims", "depths", "num_heads", "window_size")
# Those with released weights. C24 has 24 channels a head.
ARCHS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {
    "tiny_c24": (96, (2, 2, 6, 2), (4, 8, 16, 32), 8),
    "tiny_c12": (96, (2, 2, 6, 2), (8, 16, 32, 64), 8),
    "tiny_c6": (96, (2, 2, 6, 2), (16, 32, 64, 128), 8),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 7),
}


class SpatialMLP(nn.Module):
    """A linear layer over the N tokens of each window, one for every head.

    Windows are shifted by padding: the first begins M - shift before the map, the last ends behind
    it. Maps that windows do not divide are padded at the bottom and the right. Padding is zero.
    """

    def __init__(self, num_heads: int, window_size: int, shift_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.before = window_size - shift_size if shift_size else 0
        channels = num_heads * window_size**2
        # Holds the parameters, under their official names; forward multiplies all windows at once.
        self.spatial_mlp = nn.Conv1d(channels, channels, kernel_size=1, groups=num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        h, w = x.shape[1:3]
        m, start = self.window_size, self.before
        # Not by remainders: the compiler knows that whole windows come out of this one.
        rows, columns = ((size + start + m - 1) // m for size in (h, w))
        x = F.pad(x, (0, 0, start, columns * m - w - start, start, rows * m - h - start))
        x = x.unflatten(3, (self.num_heads, -1)).unflatten(2, (columns, m)).unflatten(1, (rows, m))
        tokens = x.permute(5, 2, 4, 0, 1, 3, 6)  # (heads, M, M, B, rows, columns, C / heads)
        n = m**2
        weight = self.spatial_mlp.weight.view(self.num_heads, n, n)
        mixed = weight @ tokens.reshape(self.num_heads, n, -1)
        assert self.spatial_mlp.bias is not None
        mixed = mixed + self.spatial_mlp.bias.view(self.num_heads, n, 1)
        out = mixed.view(tokens.shape).permute(3, 4, 1, 5, 2, 0, 6)
        out = out.flatten(5).flatten(3, 4).flatten(1, 2)
        return out[:, start : start + h, start : start + w]


@MODELS.register_module()
class SwinMLP(SwinTransformer):
    """Swin-MLP: an image in, feature maps of strides 4, 8, 16 and 32 out.

    Images may have any size: windows never shrink, and odd blocks always shift them, as in dense
    prediction with Swin. The authors' classifier shrinks them to a map that is smaller, and does
    not shift in one that is a single window.

    Args:
        arch: 'tiny_c24', 'tiny_c12', 'tiny_c6' or 'base', or a dict of ``embed_dims``, ``depths``,
            ``num_heads`` and ``window_size``: the window is part of the weights.
        attn_impl: who computes patch merging and norms, see :class:`~.dispatch.AttnImpl`.
        in_channels, out_indices, drop_rate, drop_path_rate, act_cfg, norm_cfg, with_cp,
            frozen_stages, init_cfg, cuda_graphs: as of :class:`~.swin.SwinTransformer`.

    Raises:
        ValueError: an argument is unknown or does not fit the others.
    """

    def __init__(
        self,
        arch: str | dict = "tiny_c24",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        act_cfg: dict = dict(type="GELU"),  # noqa: B006, C408
        norm_cfg: dict = dict(type="LN"),  # noqa: B006, C408
        with_cp: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | None = None,
        attn_impl: str = "auto",
        cuda_graphs: int = 0,
        **unknown: Any,
    ) -> None:
        check_names(type(self), unknown)
        sizes = _sizes(arch)
        super().__init__(
            **sizes,
            strides=(4,) + (2,) * (len(sizes["depths"]) - 1),
            in_channels=in_channels,
            out_indices=out_indices,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            act_cfg=act_cfg,
            norm_cfg=norm_cfg,
            with_cp=with_cp,
            frozen_stages=frozen_stages,
            init_cfg=init_cfg,
            attn_impl=attn_impl,
            cuda_graphs=cuda_graphs,
        )

    def make_attention(self, args: ResolvedArgs, i: int, j: int) -> nn.Module:
        """What takes its place in block j of stage i: odd ones shift their windows."""
        shift_size = args.window_size // 2 if j % 2 else 0
        return SpatialMLP(args.num_heads[i], args.window_size, shift_size)

    def to_native(self, state: State, own: Mapping[str, Tensor]) -> tuple[State, str, list[str]]:
        """Swin-MLP weights, the authors' or of this class; those of others are refused by name."""
        return to_swin_mlp(state, own)

    def init_from_scratch(self) -> None:
        """Initialise all parameters as the official code does."""
        super().init_from_scratch()
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d) and layer.bias is not None:
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)


def _sizes(arch: str | Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that ``arch`` stands for."""
    if isinstance(arch, str):
        expect(arch in ARCHS, f"arch must be one of {', '.join(ARCHS)}, or a dict", arch)
        return dict(zip(_NAMES, ARCHS[arch], strict=True))
    complete = set(arch) == set(_NAMES)
    expect(complete, f"a dict as arch must have the keys {', '.join(_NAMES)}", arch)
    return dict(arch)
