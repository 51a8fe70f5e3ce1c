"""The perceptron of a Swin block."""

from __future__ import annotations

from mmcv.cnn import build_activation_layer
from torch import Tensor, nn


class FeedForward(nn.Module):
    """The two-layer perceptron of a block; the nesting is that of OpenMMLab's parameter names."""

    def __init__(self, channels: int, hidden: int, act_cfg: dict, drop_rate: float) -> None:
        super().__init__()
        expand = nn.Sequential(
            nn.Linear(channels, hidden), build_activation_layer(act_cfg), nn.Dropout(drop_rate)
        )
        self.layers = nn.Sequential(expand, nn.Linear(hidden, channels), nn.Dropout(drop_rate))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        return self.layers(x)
