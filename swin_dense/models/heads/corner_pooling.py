"""Corner pooling: features of a box's edges, gathered at its corners (CornerNet, 1808.01244)."""

from __future__ import annotations

from mmcv.cnn import ConvModule, build_norm_layer
from torch import Tensor, nn


def pool_towards_top_left(x: Tensor, dim: int) -> Tensor:
    """At every position of ``(B, C, H, W)`` the maximum from there to the end of ``dim``."""
    return x.flip(dim).cummax(dim).values.flip(dim)


def pool_towards_bottom_right(x: Tensor, dim: int) -> Tensor:
    """At every position of ``(B, C, H, W)`` the maximum from the start of ``dim`` up to there."""
    return x.cummax(dim).values


class CornerPooling(nn.Module):
    """Features that tell of a corner, ``(B, C, H, W)`` to the same shape (CornerNet, figure 7).

    A top left corner lies above its box's left edge and left of its top edge, usually on no part
    of the object: it is seen by what is below and right of it; a bottom right corner conversely.

    Args:
        channels: C.
        corner_channels: channels in which the maxima are taken.
        top_left: for top left corners, else for bottom right ones.
        norm_cfg: normalisation after every convolution.
    """

    def __init__(self, channels: int, corner_channels: int, top_left: bool, norm_cfg: dict) -> None:
        super().__init__()
        self.pool = pool_towards_top_left if top_left else pool_towards_bottom_right
        self.p1_conv1 = ConvModule(channels, corner_channels, 3, padding=1, norm_cfg=norm_cfg)
        self.p2_conv1 = ConvModule(channels, corner_channels, 3, padding=1, norm_cfg=norm_cfg)
        self.p_conv1 = nn.Conv2d(corner_channels, channels, 3, padding=1, bias=False)
        self.p_gn1 = build_norm_layer(norm_cfg, channels)[1]
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.gn1 = build_norm_layer(norm_cfg, channels)[1]
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = ConvModule(channels, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        edges = self.pool(self.p1_conv1(x), 2) + self.pool(self.p2_conv1(x), 3)
        merged = self.p_gn1(self.p_conv1(edges)) + self.gn1(self.conv1(x))
        return self.conv2(self.relu1(merged))
