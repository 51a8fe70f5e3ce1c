"""Bidirectional feature pyramid (EfficientDet, arXiv 1911.09070, section 3).

With the names of parameters, and the choices that the paper leaves open, of the RepPointsV2 code
base: its released weights load.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn, ones
from torch.nn import functional as F

from swin_dense.registry import MODELS


class WeightedSum(nn.Module):
    """Sum of ``num_inputs`` maps with learned weights >= 0, normalised, then swish."""

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(ones(1, 1, 1, 1, num_inputs))

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to one of the same shape."""
        weights = self.weights.flatten().relu()
        weights = weights / (weights.sum() + 1e-4)
        return F.silu(sum(w * x for w, x in zip(weights, maps, strict=True)))


class BiFPNLayer(nn.Module):
    """Once from the top of the pyramid to the bottom and back up."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        last = len(in_channels) - 1
        self.lateral_convs = nn.ModuleList(
            nn.Identity()
            if channels == out_channels
            else ConvModule(channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
            for channels in in_channels
        )

        def convs() -> nn.ModuleList:
            return nn.ModuleList(
                ConvModule(
                    out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=None
                )
                for _ in range(last)
            )

        self.lateral_combine = nn.ModuleList(WeightedSum(2) for _ in range(last))
        self.lateral_combine_conv = convs()
        self.out_combine = nn.ModuleList(
            WeightedSum(2 if level == last else 3) for level in range(1, last + 1)
        )
        self.out_combine_conv = convs()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """``(B, C_i, H_i, W_i)`` to ``(B, out_channels, H_i, W_i)``, the finest first."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        outs = list(laterals)
        last = len(outs) - 1
        for level in range(last - 1, -1, -1):
            above = F.interpolate(outs[level + 1], size=outs[level].shape[2:], mode="nearest")
            combined = self.lateral_combine[level](outs[level], above)
            outs[level] = self.lateral_combine_conv[level](combined)
        for level in range(1, last + 1):
            below = F.max_pool2d(outs[level - 1], 3, stride=2, padding=1)
            # The top's way down is its input: it is not added twice.
            extra = () if level == last else (laterals[level],)
            combined = self.out_combine[level - 1](below, outs[level], *extra)
            outs[level] = self.out_combine_conv[level - 1](combined)
        return outs


@MODELS.register_module()
class BiFPN(BaseModule):
    """A stack of bidirectional pyramids over maps of falling resolution.

    Args:
        in_channels: channels of the backbone's maps, each half as large as the one before.
        out_channels: channels of every output.
        num_outs: number of outputs; those beyond the inputs are pooled from the last input.
        num_repeat: number of pyramids.
        norm_cfg: normalisation after every convolution.
        init_cfg: how parameters start.

    Raises:
        ValueError: fewer outputs than inputs.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        num_repeat: int = 2,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}
        super().__init__(init_cfg)
        if num_outs < len(in_channels):
            raise ValueError(
                f"BiFPN has {len(in_channels)} inputs and num_outs={num_outs}: "
                "take at least as many outputs as inputs"
            )
        norm_cfg = norm_cfg or {"type": "GN", "num_groups": 32}
        self.num_outs = num_outs
        first = [*in_channels, *[in_channels[-1]] * (num_outs - len(in_channels))]
        later = [out_channels] * num_outs
        self.bi_fpn = nn.ModuleList(
            BiFPNLayer(later if repeat else first, out_channels, norm_cfg)
            for repeat in range(num_repeat)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``(B, C_i, H_i, W_i)`` to ``num_outs`` maps ``(B, out_channels, H_i, W_i)``."""
        maps = list(inputs)
        while len(maps) < self.num_outs:
            maps.append(F.max_pool2d(maps[-1], 3, stride=2, padding=1))
        for pyramid in self.bi_fpn:
            maps = pyramid(maps)
        return tuple(maps)
