"""Layers of the RepPoints V2 head (arXiv 2007.08508, figure 3).

Points and corners are predicted in strides of their level, relative to the level's own points.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.model import BaseModule, bias_init_with_prob, normal_init
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from swin_dense.ops.dispatch import without_autocast


class RepPointsOutputs(NamedTuple):
    """Predictions ``(B, C, H_i, W_i)`` of every level, the finest first.

    Args:
        scores: C = classes, logits of the refined boxes.
        points_init: C = 2 points, y before x, initial representative points.
        points_refine: C = 2 points, refined ones; point 0 is a box's top left corner and
            point 1 its bottom right one.
        corner_scores: C = 2, logits of top left and bottom right corners.
        corner_offsets: C = 4, from a point to its corner: x, y of the top left, x, y of the
            bottom right one.
        foreground: C = classes, logits of being inside a box of the class.
        mask_params: C = parameters of each object's dynamic mask head; None without masks.
    """

    scores: Sequence[Tensor]
    points_init: Sequence[Tensor]
    points_refine: Sequence[Tensor]
    corner_scores: Sequence[Tensor]
    corner_offsets: Sequence[Tensor]
    foreground: Sequence[Tensor]
    mask_params: Sequence[Tensor] | None = None

    def of_image(self, index: int) -> RepPointsOutputs:
        """The predictions for one image, as a batch of one."""
        parts = ([level[index : index + 1] for level in part] if part else None for part in self)
        return RepPointsOutputs(*parts)  # type: ignore[arg-type]


def corner_pool(x: Tensor, dim: int, top_left: bool) -> Tensor:
    """At every position of ``(B, C, H, W)`` the maximum from there to the end of ``dim``.

    For bottom right corners it is the maximum from the start of ``dim`` to there.
    """
    return x.flip(dim).cummax(dim).values.flip(dim) if top_left else x.cummax(dim).values


class CornerPooling(nn.Module):
    """Corner pooling, ``(B, C, H, W)`` to the same shape (CornerNet, 1808.01244, figure 7).

    A box's corner usually lies outside the object: features of the box's edges are gathered there.

    Args:
        channels: C.
        corner_channels: channels in which the maxima are taken.
        top_left: for top left corners, else for bottom right ones.
        norm_cfg: normalisation after every convolution.
    """

    def __init__(self, channels: int, corner_channels: int, top_left: bool, norm_cfg: dict) -> None:
        super().__init__()
        self.corner_pool = corner_pool
        self.top_left = top_left
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
        vertical = self.corner_pool(self.p1_conv1(x), 2, self.top_left)
        edges = vertical + self.corner_pool(self.p2_conv1(x), 3, self.top_left)
        merged = self.p_gn1(self.p_conv1(edges)) + self.gn1(self.conv1(x))
        return self.conv2(self.relu1(merged))


class RepPointsV2Layers(BaseModule):
    """The head's layers, with the parameter names of the released weights.

    Args:
        num_classes: number of classes.
        in_channels: channels of the feature pyramid.
        feat_channels: channels of the branches.
        point_feat_channels: channels of the last features before points and scores.
        stacked_convs: convolutions of the classification and of the point branch.
        shared_stacked_convs: convolutions from the point branch to corners and foreground.
        corner_dim: channels of corner pooling.
        num_points: representative points of a box, an odd square number: the initial points are
            the sampling locations of a deformable convolution with as many taps.
        gradient_mul: factor on the refinement's gradient to the initial points.
        num_mask_params: parameters of each object's dynamic mask head; 0 without masks.
        norm_cfg: normalisation after the convolutions; 32 groups by default.
        init_cfg: initialisation of parameters.

    Raises:
        ValueError: ``num_points`` is not an odd square number.
    """

    points_base: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        feat_channels: int = 256,
        point_feat_channels: int = 256,
        stacked_convs: int = 3,
        shared_stacked_convs: int = 1,
        corner_dim: int = 64,
        num_points: int = 9,
        gradient_mul: float = 0.1,
        num_mask_params: int = 0,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        side = round(num_points**0.5)
        if side**2 != num_points or side % 2 == 0:
            raise ValueError(f"num_points is {num_points}: expected an odd square number, as 9")
        norm_cfg = norm_cfg or {"type": "GN", "num_groups": 32}
        self.gradient_mul = gradient_mul
        self.num_classes = num_classes
        conv3x3 = partial(nn.Conv2d, feat_channels, kernel_size=3, padding=1)
        conv1x1 = partial(nn.Conv2d, point_feat_channels, kernel_size=1)
        taps = {"kernel_size": side, "padding": side // 2, "bias": False}
        # 6 more channels: scores and offsets of both corners.
        deformable = partial(DeformConv2d, feat_channels + 6, point_feat_channels, **taps)
        self.cls_convs = _tower(in_channels, feat_channels, stacked_convs, norm_cfg)
        self.reg_convs = _tower(in_channels, feat_channels, stacked_convs, norm_cfg)
        self.shared_convs = _tower(feat_channels, feat_channels, shared_stacked_convs, norm_cfg)
        self.hem_tl = CornerPooling(feat_channels, corner_dim, True, norm_cfg)
        self.hem_br = CornerPooling(feat_channels, corner_dim, False, norm_cfg)
        self.reppoints_hem_tl_score_out = conv3x3(1)
        self.reppoints_hem_br_score_out = conv3x3(1)
        self.reppoints_hem_tl_offset_out = conv3x3(2)
        self.reppoints_hem_br_offset_out = conv3x3(2)
        self.reppoints_sem_out = nn.Conv2d(feat_channels, num_classes, 1)
        self.reppoints_sem_embedding = ConvModule(
            feat_channels, feat_channels, 1, norm_cfg=norm_cfg
        )
        self.reppoints_pts_init_conv = conv3x3(point_feat_channels)
        self.reppoints_pts_init_out = conv1x1(2 * num_points)
        self.reppoints_cls_conv = deformable()
        self.reppoints_cls_out = conv1x1(num_classes)
        self.reppoints_pts_refine_conv = deformable()
        self.reppoints_pts_refine_out = conv1x1(2 * num_points)
        self.relu = nn.ReLU(inplace=True)
        controller = partial(nn.Conv2d, point_feat_channels, kernel_size=3, padding=1)
        self.controller = controller(num_mask_params) if num_mask_params else None
        # Sampling locations of a plain convolution, y before x.
        steps = torch.arange(side) - side // 2
        base = torch.cartesian_prod(steps, steps).flatten().float()
        self.register_buffer("points_base", base.view(1, -1, 1, 1), persistent=False)

    def init_weights(self) -> None:
        """Small weights except around corner pooling; biases of scores for rare positives."""
        super().init_weights()
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | DeformConv2d) and not name.startswith(
                ("hem_", "reppoints_sem_embedding", "mask_head")
            ):
                is_score = name.endswith(("score_out", "sem_out", "cls_out"))
                bias = bias_init_with_prob(0.01) if is_score else 0
                normal_init(module, std=0.01, bias=bias)

    def forward(self, feats: Sequence[Tensor]) -> RepPointsOutputs:
        """Predictions from feature maps ``(B, in_channels, H_i, W_i)``."""
        levels = [self._forward_level(x) for x in feats]
        return RepPointsOutputs(*(list(parts) for parts in zip(*levels, strict=True)))

    def _forward_level(self, x: Tensor) -> tuple[Tensor, ...]:
        cls_feat, pts_feat = self.cls_convs(x), self.reg_convs(x)
        shared = self.shared_convs(pts_feat)
        foreground = self.reppoints_sem_out(shared)
        embedding = self.reppoints_sem_embedding(shared)
        corner_scores, corner_offsets = self._corners(shared + embedding)
        cls_feat, pts_feat = cls_feat + embedding, pts_feat + embedding
        points_init = self.reppoints_pts_init_out(self.relu(self.reppoints_pts_init_conv(pts_feat)))
        fixed_init = points_init.detach()
        offsets = fixed_init + self.gradient_mul * (points_init - fixed_init) - self.points_base
        corners = [corner_scores, corner_offsets]
        cls_feat = _deform(self.reppoints_cls_conv, [cls_feat, *corners], offsets)
        pts_feat = _deform(self.reppoints_pts_refine_conv, [pts_feat, *corners], offsets)
        return (
            self.reppoints_cls_out(cls_feat),
            points_init,
            self.reppoints_pts_refine_out(pts_feat) + fixed_init,
            corner_scores,
            corner_offsets,
            foreground,
            *([self.controller(cls_feat)] if self.controller else []),
        )

    def _corners(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``(B, 2, H, W)`` and offsets ``(B, 4, H, W)`` of corners."""
        tl, br = self.hem_tl(x), self.hem_br(x)
        scores = [self.reppoints_hem_tl_score_out(tl), self.reppoints_hem_br_score_out(br)]
        offsets = [self.reppoints_hem_tl_offset_out(tl), self.reppoints_hem_br_offset_out(br)]
        return torch.cat(scores, 1), torch.cat(offsets, 1)


def _tower(in_channels: int, channels: int, depth: int, norm_cfg: dict) -> nn.Sequential:
    inputs = [in_channels, *[channels] * (depth - 1)][:depth]
    return nn.Sequential(
        *(ConvModule(first, channels, 3, padding=1, norm_cfg=norm_cfg) for first in inputs)
    )


def _deform(conv: DeformConv2d, inputs: list[Tensor], offsets: Tensor) -> Tensor:
    """In float32: 16 bits lose sampling locations, and torchvision has no bfloat16 kernel."""
    x = torch.cat(inputs, 1)
    with without_autocast(x):
        return conv(x.float(), offsets.float()).relu()
