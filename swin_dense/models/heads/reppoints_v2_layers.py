"""Layers of the RepPoints V2 head (2007.08508, figure 3): maps of the pyramid in, predictions out.

Points and corners are predicted in strides of their level, from the level's own points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, bias_init_with_prob, normal_init
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from swin_dense.models.heads.corner_pooling import CornerPooling
from swin_dense.ops.dispatch import without_autocast


class RepPointsMaps(NamedTuple):
    """Predictions ``(B, C, H_i, W_i)`` of every level, the finest first.

    Args:
        scores: C = classes, logits of the refined boxes.
        points_init: C = 2 points, y before x, first guess of the representative points.
        points_refine: C = 2 points, the refined ones; point 0 is a box's top left corner and
            point 1 its bottom right one.
        corner_scores: C = 2, logits of top left and bottom right corners.
        corner_offsets: C = 4, from a point to the corner it stands for: x, y of the top left,
            x, y of the bottom right one.
        foreground: C = classes, logits of being inside of some box of the class.
        mask_params: C = weights of each object's mask network; None without masks.
    """

    scores: Sequence[Tensor]
    points_init: Sequence[Tensor]
    points_refine: Sequence[Tensor]
    corner_scores: Sequence[Tensor]
    corner_offsets: Sequence[Tensor]
    foreground: Sequence[Tensor]
    mask_params: Sequence[Tensor] | None = None


class RepPointsV2Layers(BaseModule):
    """What RepPoints V2 computes of a pyramid, with the released weights' names of parameters.

    Args:
        num_classes: number of classes.
        in_channels: channels of the pyramid.
        feat_channels: channels of the branches.
        point_feat_channels: channels of the last features before points and scores.
        stacked_convs: convolutions of the classification and of the point branch.
        shared_stacked_convs: convolutions from the point branch to corners and foreground.
        corner_dim: channels of corner pooling.
        num_points: representative points of a box, an odd square number: the first guesses are
            where a deformable convolution of as many taps looks.
        gradient_mul: share of the refinement's gradient that reaches the first guess.
        num_mask_params: weights of each object's mask network; 0 without masks.
        norm_cfg: normalisation after the convolutions.
        init_cfg: how parameters start.

    Raises:
        ValueError: ``num_points`` is not an odd square number.
    """

    points_base: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int,
        point_feat_channels: int,
        stacked_convs: int,
        shared_stacked_convs: int,
        corner_dim: int,
        num_points: int,
        gradient_mul: float,
        num_mask_params: int,
        norm_cfg: dict,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        side = round(num_points**0.5)
        if side**2 != num_points or side % 2 == 0:
            raise ValueError(f"num_points is {num_points}: expected an odd square number, as 9")
        self.gradient_mul = gradient_mul
        self.num_classes = num_classes
        self.num_points = num_points

        def tower(first: int, depth: int) -> nn.ModuleList:
            return nn.ModuleList(
                ConvModule(
                    feat_channels if i else first, feat_channels, 3, padding=1, norm_cfg=norm_cfg
                )
                for i in range(depth)
            )

        def conv3x3(channels: int) -> nn.Conv2d:
            return nn.Conv2d(feat_channels, channels, 3, padding=1)

        def conv1x1(channels: int) -> nn.Conv2d:
            return nn.Conv2d(point_feat_channels, channels, 1)

        def deformable() -> DeformConv2d:
            # 6 more channels: scores and offsets of both corners.
            inputs = feat_channels + 6
            return DeformConv2d(inputs, point_feat_channels, side, padding=side // 2, bias=False)

        self.cls_convs = tower(in_channels, stacked_convs)
        self.reg_convs = tower(in_channels, stacked_convs)
        self.shared_convs = tower(feat_channels, shared_stacked_convs)
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
        self.controller: nn.Conv2d | None = None
        if num_mask_params:
            self.controller = nn.Conv2d(point_feat_channels, num_mask_params, 3, padding=1)
        # Where the taps of a plain convolution are, y before x.
        steps = torch.arange(side) - side // 2
        base = torch.cartesian_prod(steps, steps).flatten().float()
        self.register_buffer("points_base", base.view(1, -1, 1, 1), persistent=False)

    def init_weights(self) -> None:
        """Small weights everywhere but around the corner pooling; rare positives."""
        super().init_weights()
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | DeformConv2d) and not name.startswith(
                ("hem_", "reppoints_sem_embedding", "mask_head")
            ):
                is_score = name.endswith(("score_out", "sem_out", "cls_out"))
                bias = bias_init_with_prob(0.01) if is_score else 0
                normal_init(module, std=0.01, bias=bias)

    def forward(self, feats: Sequence[Tensor]) -> RepPointsMaps:
        """Predictions of the pyramid's maps ``(B, in_channels, H_i, W_i)``."""
        levels = [self._forward_level(x) for x in feats]
        return RepPointsMaps(*(list(maps) for maps in zip(*levels, strict=True)))

    def _forward_level(self, x: Tensor) -> tuple[Tensor, ...]:
        cls_feat = pts_feat = x
        for conv in self.cls_convs:
            cls_feat = conv(cls_feat)
        for conv in self.reg_convs:
            pts_feat = conv(pts_feat)
        shared = pts_feat
        for conv in self.shared_convs:
            shared = conv(shared)
        foreground = self.reppoints_sem_out(shared)
        embedding = self.reppoints_sem_embedding(shared)
        corner_scores, corner_offsets = self._corners(shared + embedding)
        cls_feat, pts_feat = cls_feat + embedding, pts_feat + embedding
        points_init = self.reppoints_pts_init_out(self.relu(self.reppoints_pts_init_conv(pts_feat)))
        guess = points_init.detach()
        offsets = guess + self.gradient_mul * (points_init - guess) - self.points_base
        cls_feat, pts_feat = (
            self.relu(_deform(conv, torch.cat([feat, corner_scores, corner_offsets], 1), offsets))
            for conv, feat in (
                (self.reppoints_cls_conv, cls_feat),
                (self.reppoints_pts_refine_conv, pts_feat),
            )
        )
        return (
            self.reppoints_cls_out(cls_feat),
            points_init,
            self.reppoints_pts_refine_out(pts_feat) + guess,
            corner_scores,
            corner_offsets,
            foreground,
            *([self.controller(cls_feat)] if self.controller else []),
        )

    def _corners(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``(B, 2, H, W)`` and offsets ``(B, 4, H, W)`` of corners."""
        top_left, bottom_right = self.hem_tl(x), self.hem_br(x)
        scores = [
            self.reppoints_hem_tl_score_out(top_left),
            self.reppoints_hem_br_score_out(bottom_right),
        ]
        offsets = [
            self.reppoints_hem_tl_offset_out(top_left),
            self.reppoints_hem_br_offset_out(bottom_right),
        ]
        return torch.cat(scores, 1), torch.cat(offsets, 1)


def _deform(conv: DeformConv2d, x: Tensor, offsets: Tensor) -> Tensor:
    """In full precision: places are lost in 16 bits, and torchvision has no kernel for bfloat16."""
    with without_autocast(x):
        return conv(x.float(), offsets.float())
