"""RepPoints V2: verification meets regression (arXiv 2007.08508), for mmdet's detectors.

Boxes are regressed by representative points, twice; corners are verified on heat maps, which
guide the regression and, at test time, have the last word on where a box ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

from swin_dense.errors import UserError
from swin_dense.models.heads.assignment import atss, mass_centers, nearest_points
from swin_dense.models.heads.box_overlap import paired_iou
from swin_dense.models.heads.conditional_masks import MaskQueries
from swin_dense.models.heads.corners import corner_targets, snap_to_corners
from swin_dense.models.heads.foreground import foreground_targets
from swin_dense.models.heads.pyramid import Points, flatten, pyramid_points
from swin_dense.models.heads.reppoints_v2_layers import RepPointsMaps, RepPointsV2Layers
from swin_dense.registry import MODELS


class Targets(NamedTuple):
    """What the points of images should predict; of objects by their index, -1 for none.

    ``valid`` (..., N) is False outside of the image; ``init`` and ``refine`` (..., N) are the
    objects of first guesses and of refined boxes; ``heat`` (..., N, 2) and ``offsets``
    (..., N, 2, 2) are those of :func:`corner_targets`.
    """

    valid: Tensor
    init: Tensor
    refine: Tensor
    heat: Tensor
    offsets: Tensor


class Objects(NamedTuple):
    """K objects: ``boxes`` (K, 4), ``labels`` (K,), ``centers`` (K, 2), ``masks`` (K, H, W)."""

    boxes: Tensor
    labels: Tensor
    centers: Tensor
    masks: Tensor | None


@MODELS.register_module()
class RepPointsV2Head(RepPointsV2Layers):
    """RepPoints V2 head, with masks if ``mask_head`` is given.

    Args:
        num_classes: number of classes.
        in_channels, feat_channels, point_feat_channels, stacked_convs, shared_stacked_convs,
            corner_dim, num_points, gradient_mul: see :class:`RepPointsV2Layers`.
        point_strides: pixels between the points of each level.
        point_base_scale: size in strides of the objects of a level.
        norm_cfg: normalisation after the convolutions; 32 groups by default.
        loss_cls: of logits ``(n, classes)``, given ``(labels, overlaps)``.
        loss_bbox_init, loss_bbox_refine: of boxes in units of their level's objects.
        loss_heatmap, loss_offset: of corners.
        loss_sem: of the foreground.
        mask_head: a :class:`ConditionalMaskHead`; None predicts boxes only.
        train_cfg: ``topk`` (9) of :func:`atss`, ``gaussian_iou`` (0.7) of :func:`corner_targets`.
        test_cfg: ``score_thr``, ``nms_pre`` (boxes per level), ``nms``, ``max_per_img``, and
            ``mask_thr_binary`` (0.5).
        init_cfg: how parameters start.
    """

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
        point_strides: Sequence[int] = (8, 16, 32, 64, 128),
        point_base_scale: int = 4,
        norm_cfg: dict | None = None,
        loss_cls: dict | None = None,
        loss_bbox_init: dict | None = None,
        loss_bbox_refine: dict | None = None,
        loss_heatmap: dict | None = None,
        loss_offset: dict | None = None,
        loss_sem: dict | None = None,
        mask_head: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        masks = MODELS.build(mask_head) if mask_head else None
        super().__init__(
            num_classes,
            in_channels,
            feat_channels,
            point_feat_channels,
            stacked_convs,
            shared_stacked_convs,
            corner_dim,
            num_points,
            gradient_mul,
            num_mask_params=masks.num_params if masks else 0,
            norm_cfg=norm_cfg or {"type": "GN", "num_groups": 32},
            init_cfg=init_cfg,
        )
        self.mask_head = masks
        self.point_strides = tuple(point_strides)
        self.point_base_scale = point_base_scale
        self.train_cfg = train_cfg or {}
        self.test_cfg = test_cfg or {}
        losses = {
            "loss_cls": loss_cls or {"type": "mmdet.QualityFocalLoss"},
            "loss_bbox_init": loss_bbox_init or {"type": "swin_dense.InclusiveGIoULoss"},
            "loss_bbox_refine": loss_bbox_refine
            or {"type": "swin_dense.InclusiveGIoULoss", "loss_weight": 2.0},
            "loss_heatmap": loss_heatmap
            or {"type": "mmdet.GaussianFocalLoss", "loss_weight": 0.25},
            "loss_offset": loss_offset or {"type": "mmdet.SmoothL1Loss", "beta": 1 / 9},
            "loss_sem": loss_sem or {"type": "swin_dense.SeparateFocalLoss", "loss_weight": 0.1},
        }
        for name, cfg in losses.items():
            setattr(self, name, MODELS.build(cfg))

    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses of a pyramid against the samples' ``gt_instances``; crowds are not looked at.

        Raises:
            UserError: masks are predicted, but the samples have none.
        """
        maps = self(x)
        points = pyramid_points(maps.scores, self.point_strides)
        first = self._boxes(maps.points_init, points)
        refined = self._boxes(maps.points_refine, points)
        height, width = (size * self.point_strides[0] for size in x[0].shape[2:])
        images = [self._objects(sample, (height, width)) for sample in batch_data_samples]
        boxes = torch.cat([image.boxes for image in images])
        targets = self._targets(points, first.detach(), images, batch_data_samples)
        losses = {
            "loss_cls": self._class_loss(maps, refined.detach(), boxes, images, targets),
            "loss_pts_init": self._box_loss(
                self.loss_bbox_init, first, targets.init, boxes, points
            ),
            "loss_pts_refine": self._box_loss(
                self.loss_bbox_refine, refined, targets.refine, boxes, points
            ),
            **self._corner_losses(maps, targets),
            "loss_sem": self._foreground_loss(maps, images),
        }
        if self.mask_head is not None:
            image, point = (targets.refine >= 0).nonzero(as_tuple=True)
            queries = self._queries(maps, points, image, point)
            masks = torch.cat([image.masks for image in images if image.masks is not None])
            losses.update(self.mask_head.loss(x, queries, masks, targets.refine[image, point]))
        return losses

    def predict(
        self, x: Sequence[Tensor], batch_data_samples: Sequence[Any], rescale: bool = False
    ) -> list[InstanceData]:
        """Detections of each image: ``bboxes``, ``scores``, ``labels``, and ``masks`` if trained.

        Args:
            x: pyramid of the batch.
            batch_data_samples: of whose ``metainfo`` the sizes and scales of images are read.
            rescale: report boxes and masks in the original image, else in the resized one.
        """
        maps = self(x)
        points = pyramid_points(maps.scores, self.point_strides)
        boxes = self._boxes(maps.points_refine, points)
        results = []
        for index, sample in enumerate(batch_data_samples):
            meta = sample.metainfo
            result = self._suppress(self._candidates(maps, boxes[index], points, index, meta))
            rows = result.pop("points")
            if self.mask_head is not None:
                queries = self._queries(maps, points, torch.full_like(rows, index), rows)
                result.masks = self.mask_head.predict(
                    [level[index : index + 1] for level in x],
                    queries._replace(images=torch.zeros_like(rows)),
                    image_size=tuple(meta["img_shape"][:2]),
                    out_size=tuple(meta["ori_shape" if rescale else "img_shape"][:2]),
                    threshold=self.test_cfg.get("mask_thr_binary", 0.5),
                )
            if rescale:
                width, height = meta["scale_factor"][:2]
                scale = result.bboxes.new_tensor([width, height, width, height])
                result.bboxes = result.bboxes / scale
            results.append(result)
        return results

    def _boxes(self, maps: Sequence[Tensor], points: Points) -> Tensor:
        """Boxes ``(B, N, 4)`` in pixels: the first two points, y before x, are their corners."""
        corners = flatten(maps)[..., [1, 0, 3, 2]]
        return corners * points.strides[:, None] + points.xy.repeat(1, 2)

    def _objects(self, sample: Any, size: tuple[int, int]) -> Objects:
        truth = sample.gt_instances
        boxes = truth.bboxes.float()
        if self.mask_head is None:
            return Objects(boxes, truth.labels, (boxes[:, :2] + boxes[:, 2:]) / 2, None)
        if "masks" not in truth:
            raise UserError(
                "the training samples have no masks: load them (LoadAnnotations with "
                "with_mask=True), or train boxes only with model.bbox_head.mask_head=None"
            )
        masks = truth.masks.to_tensor(dtype=torch.uint8, device=boxes.device)
        masks = F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))
        return Objects(boxes, truth.labels, mass_centers(masks, boxes), masks)

    def _targets(
        self, points: Points, guesses: Tensor, images: Sequence[Objects], samples: Sequence[Any]
    ) -> Targets:
        """Of a batch; objects are counted through all of its images."""
        found, start = [], 0
        for boxes, image, sample in zip(guesses, images, samples, strict=True):
            target = self._image_targets(points, boxes, image, sample.metainfo)
            init, refine = (
                torch.where(objects >= 0, objects + start, -1)
                for objects in (target.init, target.refine)
            )
            found.append(target._replace(init=init, refine=refine))
            start += len(image.boxes)
        return Targets(*(torch.stack(part) for part in zip(*found, strict=True)))

    def _image_targets(
        self, points: Points, guesses: Tensor, image: Objects, meta: dict
    ) -> Targets:
        height, width = meta.get("pad_shape", meta["img_shape"])[:2]
        valid = (points.xy < points.xy.new_tensor([width, height])).all(1)
        xy, strides, levels = (part[valid] for part in points)
        sizes = image.boxes[:, 2:] - image.boxes[:, :2]
        init = nearest_points(xy, strides, image.centers, sizes, self.point_base_scale)
        per_level = levels.bincount(minlength=len(self.point_strides)).tolist()
        topk = self.train_cfg.get("topk", 9)
        refine = atss(guesses[valid], per_level, image.boxes, image.centers, topk)
        min_overlap = self.train_cfg.get("gaussian_iou", 0.7)
        heat, offsets = corner_targets(xy, strides, image.boxes, min_overlap)

        def everywhere(part: Tensor, outside: int) -> Tensor:
            return part.new_full((len(valid), *part.shape[1:]), outside).masked_scatter(
                valid.view(-1, *[1] * (part.dim() - 1)), part
            )

        return Targets(
            valid,
            everywhere(init, -1),
            everywhere(refine, -1),
            everywhere(heat, 0),
            everywhere(offsets, 0),
        )

    def _class_loss(
        self,
        maps: RepPointsMaps,
        refined: Tensor,
        boxes: Tensor,
        images: Sequence[Objects],
        targets: Targets,
    ) -> Tensor:
        """The score to predict is the refined box's overlap with its object (2006.04388)."""
        positive = targets.refine >= 0
        objects = targets.refine[positive]
        labels = torch.full_like(targets.refine, self.num_classes)
        labels[positive] = torch.cat([image.labels for image in images])[objects]
        quality = refined.new_zeros(labels.shape)
        quality[positive] = paired_iou(refined[positive], boxes[objects])
        valid = targets.valid
        return self.loss_cls(
            flatten(maps.scores)[valid],
            (labels[valid], quality[valid]),
            avg_factor=_count(positive),
        )

    def _box_loss(
        self, loss: Any, predicted: Tensor, objects: Tensor, boxes: Tensor, points: Points
    ) -> Tensor:
        """Boxes are measured in sizes of their level's objects."""
        positive = objects >= 0
        unit = (self.point_base_scale * points.strides).expand_as(objects)[positive][:, None]
        return loss(
            predicted[positive] / unit,
            boxes[objects[positive]] / unit,
            avg_factor=_count(positive),
        )

    def _corner_losses(self, maps: RepPointsMaps, targets: Targets) -> dict[str, Tensor]:
        valid = targets.valid
        probabilities = flatten(maps.corner_scores).sigmoid()
        offsets = flatten(maps.corner_offsets).unflatten(2, (2, 2))
        heat_loss = offset_loss = probabilities.new_zeros(())
        for corner in (0, 1):
            heat = targets.heat[..., corner]
            positive = heat == 1
            count = _count(positive)
            heat_loss = heat_loss + self.loss_heatmap(
                probabilities[..., corner][valid], heat[valid], avg_factor=count
            )
            offset_loss = offset_loss + self.loss_offset(
                offsets[:, :, corner][positive],
                targets.offsets[:, :, corner][positive],
                avg_factor=count,
            )
        return {"loss_heatmap": heat_loss / 2, "loss_offset": offset_loss / 2}

    def _foreground_loss(self, maps: RepPointsMaps, images: Sequence[Objects]) -> Tensor:
        height, width = maps.foreground[0].shape[2:]
        stride = self.point_strides[0]
        pairs = [
            foreground_targets(image.boxes, image.labels, self.num_classes, (height, width), stride)
            for image in images
        ]
        target, weight = (torch.stack(part) for part in zip(*pairs, strict=True))

        def at_all_levels(finest: Tensor) -> Tensor:
            return flatten([F.interpolate(finest, x.shape[2:]) for x in maps.foreground])

        return self.loss_sem(flatten(maps.foreground), at_all_levels(target), at_all_levels(weight))

    def _queries(
        self, maps: RepPointsMaps, points: Points, images: Tensor, rows: Tensor
    ) -> MaskQueries:
        """Mask networks of points ``rows`` in ``images``, placed at the first guess."""
        assert maps.mask_params is not None
        guess = flatten(maps.points_init)[images, rows].unflatten(1, (-1, 2)).mean(1).flip(1)
        strides = points.strides[rows][:, None]
        # Half a stride further than the points are for boxes: so the released weights have it.
        locations = guess * strides + points.xy[rows] + (strides / 2).floor()
        params = flatten(maps.mask_params)[images, rows]
        return MaskQueries(params, locations, points.levels[rows], images)

    def _candidates(
        self, maps: RepPointsMaps, boxes: Tensor, points: Points, index: int, meta: dict
    ) -> InstanceData:
        """Boxes of one image in pixels, moved to the corners that were verified, one by class."""
        height, width = meta["img_shape"][:2]
        limits = boxes.new_tensor([width, height, width, height])
        scores = flatten([level[index : index + 1] for level in maps.scores])[0].sigmoid()
        most = self.test_cfg.get("nms_pre", -1)
        kept, moved = [], []
        for level in range(len(self.point_strides)):
            rows = (points.levels == level).nonzero().squeeze(1)
            if 0 < most < len(rows):
                rows = rows[scores[rows].amax(1).topk(most).indices]
            found = boxes[rows].clamp(min=0).minimum(limits)
            if level > 0:  # the finest level has no finer corners to look at
                finer = 0 if level < 3 else 1
                found = snap_to_corners(
                    found,
                    maps.corner_scores[finer][index].float(),
                    maps.corner_offsets[finer][index].float(),
                    self.point_strides[finer],
                )
                found = found.clamp(min=0).minimum(limits)
            kept.append(rows)
            moved.append(found)
        rows, boxes = torch.cat(kept), torch.cat(moved)
        scores = scores[rows]
        which, labels = (scores > self.test_cfg.get("score_thr", 0.05)).nonzero(as_tuple=True)
        result = InstanceData(
            bboxes=boxes[which], scores=scores[which, labels], labels=labels, points=rows[which]
        )
        # Corners are found one by one: a box can end up without an inside.
        return result[(result.bboxes[:, 2:] > result.bboxes[:, :2]).all(1)]

    def _suppress(self, result: InstanceData) -> InstanceData:
        """The best detections without duplicates of a class."""
        from mmcv.ops import batched_nms  # its package is large

        if len(result):
            nms = self.test_cfg.get("nms", {"type": "nms", "iou_threshold": 0.6})
            boxes, kept = batched_nms(result.bboxes, result.scores, result.labels, nms)
            result = result[kept]
            result.scores = boxes[:, 4]
        return result[: self.test_cfg.get("max_per_img", 100)]


def _count(positive: Tensor) -> Tensor:
    """Positives of a batch ``(B, N)``; an image without any counts as one."""
    return positive.sum(1).clamp(min=1).sum()
