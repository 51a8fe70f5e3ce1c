"""Bidirectional feature pyramid (EfficientDet, arXiv 1911.09070, section 3).

Parameter names, and the choices that the paper leaves open, are those of the RepPointsV2 code base,
so that its released weights load.
"""

from collections.abc import Sequence
from functools import partial

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn, ones
from torch.nn import functional as F

from swin_dense.registry import MODELS


class WeightedSum(nn.Module):
    """Sum of feature maps with learned, normalised weights >= 0, then swish."""

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(ones(1, 1, 1, 1, num_inputs))

    def forward(self, *feature_maps: Tensor) -> Tensor:
        """Feature maps ``(B, C, H, W)`` to one of the same shape."""
        weights = self.weights.flatten().relu()
        weights = weights / (weights.sum() + 1e-4)
        return F.silu(sum(w * x for w, x in zip(weights, feature_maps, strict=True)))


class BiFPNLayer(nn.Module):
    """One pass down the pyramid and back up."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        last = len(in_channels) - 1
        conv = partial(ConvModule, out_channels=out_channels, norm_cfg=norm_cfg, act_cfg=None)
        conv3x3 = partial(conv, out_channels, kernel_size=3, padding=1)
        self.lateral_convs = nn.ModuleList(
            nn.Identity() if channels == out_channels else conv(channels, kernel_size=1)
            for channels in in_channels
        )
        self.halve = nn.MaxPool2d(3, stride=2, padding=1)
        self.lateral_combine = nn.ModuleList(WeightedSum(2) for _ in range(last))
        self.lateral_combine_conv = nn.ModuleList(conv3x3() for _ in range(last))
        num_inputs = [3] * (last - 1) + [2]
        self.out_combine = nn.ModuleList(WeightedSum(n) for n in num_inputs[:last])
        self.out_combine_conv = nn.ModuleList(conv3x3() for _ in range(last))

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """``(B, C_i, H_i, W_i)`` to ``(B, out_channels, H_i, W_i)``, the finest first."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=True)]
        outs = list(laterals)
        last = len(outs) - 1
        for level in range(last - 1, -1, -1):
            above = F.interpolate(outs[level + 1], size=outs[level].shape[2:], mode="nearest")
            combined = self.lateral_combine[level](outs[level], above)
            outs[level] = self.lateral_combine_conv[level](combined)
        for level in range(1, last + 1):
            below = self.halve(outs[level - 1])
            # The top level has no downward pass: its input is not added twice.
            extra = () if level == last else (laterals[level],)
            combined = self.out_combine[level - 1](below, outs[level], *extra)
            outs[level] = self.out_combine_conv[level - 1](combined)
        return outs


@MODELS.register_module()
class BiFPN(BaseModule):
    """A stack of bidirectional feature pyramids.

    Args:
        in_channels: channels of the backbone's feature maps, each half as large as the one before.
        out_channels: channels of every output.
        num_outs: number of outputs; those beyond the inputs are pooled from the last input.
        num_repeat: number of pyramids.
        norm_cfg: normalisation after every convolution.
        init_cfg: initialisation of parameters.

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
                "set num_outs to at least the number of inputs"
            )
        norm_cfg = norm_cfg or {"type": "GN", "num_groups": 32}
        self.num_outs = num_outs
        self.halve = nn.MaxPool2d(3, stride=2, padding=1)
        first = [*in_channels, *[in_channels[-1]] * (num_outs - len(in_channels))]
        later = [out_channels] * num_outs
        self.bi_fpn = nn.ModuleList(
            BiFPNLayer(later if repeat else first, out_channels, norm_cfg)
            for repeat in range(num_repeat)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``(B, C_i, H_i, W_i)`` to ``num_outs`` of ``(B, out_channels, H_i, W_i)``."""
        outs = list(inputs)
        while len(outs) < self.num_outs:
            outs.append(self.halve(outs[-1]))
        for layer in self.bi_fpn:
            outs = layer(outs)
        return tuple(outs)
