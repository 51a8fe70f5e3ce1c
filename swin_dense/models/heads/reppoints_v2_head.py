"""RepPoints V2: verification meets regression (arXiv 2007.08508), for mmdet's detectors.

Boxes are regressed by representative points, twice; corners are verified on heatmaps, which guide
the regression and, at test time, decide where a box ends.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

from swin_dense.errors import UserError
from swin_dense.models.heads.conditional_mask_head import MaskInstances
from swin_dense.models.heads.reppoints_v2_layers import RepPointsOutputs, RepPointsV2Layers
from swin_dense.models.heads.reppoints_v2_targets import (
    Points,
    assign_atss,
    assign_nearest,
    corner_targets,
    flatten_levels,
    foreground_targets,
    mass_centers,
    points_inside,
    pyramid_points,
)
from swin_dense.models.transfer import true_indices, values_like
from swin_dense.registry import MODELS


class Targets(NamedTuple):
    """Training targets of points, (B * N,) of a batch, (N,) of an image.

    ``inside`` (n,) has the indices of those within their image. ``init`` and ``refine`` are the
    objects of initial and of refined boxes by their index, -1 for none; ``heatmap`` (..., 2) and
    ``offsets`` (..., 2, 2) are those of :func:`corner_targets`.
    """

    inside: Tensor
    init: Tensor
    refine: Tensor
    heatmap: Tensor
    offsets: Tensor


class GroundTruth(NamedTuple):
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
        point_strides: pixels between the points of each level.
        point_base_scale: size in strides of the objects of a level.
        loss_cls: of logits ``(n, classes)``, given ``(labels, overlaps)``.
        loss_bbox_init, loss_bbox_refine: of boxes in units of their level's objects.
        loss_heatmap, loss_offset: of corners.
        loss_sem: of the foreground.
        mask_head: a :class:`ConditionalMaskHead`; None predicts boxes only.
        train_cfg: ``topk`` (9) of :func:`assign_atss`, ``gaussian_iou`` (0.7) of
            :func:`corner_targets`.
        test_cfg: ``score_thr``, ``nms_pre`` (boxes per level), ``nms``, ``max_per_img``, and
            ``mask_thr_binary`` (0.5).
        layers: further arguments of :class:`RepPointsV2Layers`.
    """

    def __init__(
        self,
        num_classes: int,
        point_strides: Sequence[int] = (8, 16, 32, 64, 128),
        point_base_scale: int = 4,
        loss_cls: dict | None = None,
        loss_bbox_init: dict | None = None,
        loss_bbox_refine: dict | None = None,
        loss_heatmap: dict | None = None,
        loss_offset: dict | None = None,
        loss_sem: dict | None = None,
        mask_head: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        **layers: Any,
    ) -> None:
        masks = MODELS.build(mask_head) if mask_head else None
        super().__init__(num_classes, num_mask_params=masks.num_params if masks else 0, **layers)
        self.mask_head = masks
        self.point_strides = tuple(point_strides)
        self.point_base_scale = point_base_scale
        self.train_cfg = train_cfg or {}
        self.test_cfg = test_cfg or {}
        giou = {"type": "swin_dense.InclusiveGIoULoss"}
        gaussian_focal = {"type": "mmdet.GaussianFocalLoss", "loss_weight": 0.25}
        smooth_l1 = {"type": "mmdet.SmoothL1Loss", "beta": 1 / 9}
        separate_focal = {"type": "swin_dense.SeparateFocalLoss", "loss_weight": 0.1}
        self.loss_cls = MODELS.build(loss_cls or {"type": "mmdet.QualityFocalLoss"})
        self.loss_bbox_init = MODELS.build(loss_bbox_init or giou)
        self.loss_bbox_refine = MODELS.build(loss_bbox_refine or {**giou, "loss_weight": 2.0})
        self.loss_heatmap = MODELS.build(loss_heatmap or gaussian_focal)
        self.loss_offset = MODELS.build(loss_offset or smooth_l1)
        self.loss_sem = MODELS.build(loss_sem or separate_focal)

    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses of a feature pyramid, given the samples' ``gt_instances``; crowds are not used.

        Raises:
            UserError: the head predicts masks, but the samples have none.
        """
        outputs = self(x)
        points = pyramid_points(outputs.scores, self.point_strides)
        initial = self.boxes_of(outputs.points_init, points)
        refined = self.boxes_of(outputs.points_refine, points)
        height, width = (size * self.point_strides[0] for size in x[0].shape[2:])
        images = [self._ground_truth(sample, (height, width)) for sample in batch_data_samples]
        boxes = torch.cat([image.boxes for image in images])
        targets = self._targets(points, initial.detach(), images, batch_data_samples)
        at_corners = (targets.heatmap == 1).unbind(1)
        init, refine, *corners = true_indices([targets.init >= 0, targets.refine >= 0, *at_corners])
        init_loss = self._box_loss(self.loss_bbox_init, initial, boxes, targets.init, init, points)
        refine_loss = self._box_loss(
            self.loss_bbox_refine, refined, boxes, targets.refine, refine, points
        )
        losses = {
            "loss_cls": self._class_loss(outputs, refined.detach(), boxes, images, targets, refine),
            "loss_pts_init": init_loss,
            "loss_pts_refine": refine_loss,
            **self._corner_losses(outputs, targets, corners),
            "loss_sem": self._foreground_loss(outputs, images),
        }
        if self.mask_head is not None:
            image, point = refine // len(points.xy), refine % len(points.xy)
            instances = self.mask_instances(outputs, points, image, point)
            masks = torch.cat([image.masks for image in images if image.masks is not None])
            losses.update(self.mask_head.loss(x, instances, masks, targets.refine[refine]))
        return losses

    def predict(
        self, x: Sequence[Tensor], batch_data_samples: Sequence[Any], rescale: bool = False
    ) -> list[InstanceData]:
        """Detections of each image: ``bboxes``, ``scores``, ``labels``, and ``masks`` if predicted.

        Args:
            x: feature pyramid of the batch.
            batch_data_samples: their ``metainfo`` gives sizes and scales of images.
            rescale: report boxes and masks in the original image, else in the resized one.
        """
        batch = self(x)
        points = pyramid_points(batch.scores, self.point_strides)
        results = []
        for index, sample in enumerate(batch_data_samples):
            meta, outputs = sample.metainfo, batch.of_image(index)
            result = self._suppress(self._candidates(outputs, points, meta))
            rows = result.pop("points")
            if self.mask_head is not None:
                result.masks = self.mask_head.predict(
                    [level[index : index + 1] for level in x],
                    self.mask_instances(outputs, points, torch.zeros_like(rows), rows),
                    image_size=tuple(meta["img_shape"][:2]),
                    out_size=tuple(meta["ori_shape" if rescale else "img_shape"][:2]),
                    threshold=self.test_cfg.get("mask_thr_binary", 0.5),
                )
            if rescale:
                scale = values_like(result.bboxes, meta["scale_factor"][:2])
                result.bboxes = result.bboxes / scale.repeat(2)
            results.append(result)
        return results

    def boxes_of(self, offsets: Sequence[Tensor], points: Points) -> Tensor:
        """Boxes ``(B, N, 4)`` in pixels: the first two points, y before x, are their corners."""
        corners = flatten_levels(offsets)[..., :4].unflatten(2, (2, 2)).flip(3).flatten(2)
        return corners * points.strides[:, None] + points.xy.repeat(1, 2)

    def _ground_truth(self, sample: Any, size: tuple[int, int]) -> GroundTruth:
        truth = sample.gt_instances
        boxes = truth.bboxes.float()
        if self.mask_head is None:
            return GroundTruth(boxes, truth.labels, (boxes[:, :2] + boxes[:, 2:]) / 2, None)
        if "masks" not in truth:
            raise UserError(
                "the training samples have no masks: load them (LoadAnnotations with "
                "with_mask=True), or train boxes only with model.bbox_head.mask_head=None"
            )
        masks = truth.masks.to_tensor(dtype=torch.uint8, device=boxes.device)
        masks = F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))
        return GroundTruth(boxes, truth.labels, mass_centers(masks, boxes), masks)

    def _targets(
        self, points: Points, initial: Tensor, images: Sequence[GroundTruth], samples: Sequence[Any]
    ) -> Targets:
        """Targets of a batch; object indices count through all of its images."""
        found, objects = [], 0
        for number, (boxes, image, sample) in enumerate(zip(initial, images, samples, strict=True)):
            target = self._image_targets(points, boxes, image, sample.metainfo)
            init, refine = (
                torch.where(indices >= 0, indices + objects, -1)
                for indices in (target.init, target.refine)
            )
            inside = target.inside + number * len(boxes)
            found.append(target._replace(inside=inside, init=init, refine=refine))
            objects += len(image.boxes)
        return Targets(*(torch.cat(part) for part in zip(*found, strict=True)))

    def _image_targets(
        self, points: Points, initial_boxes: Tensor, image: GroundTruth, meta: dict
    ) -> Targets:
        size = meta.get("pad_shape", meta["img_shape"])[:2]
        inside, per_level = points_inside(points, self.point_strides, size)
        xy, strides = points.xy[inside], points.strides[inside]
        sizes = image.boxes[:, 2:] - image.boxes[:, :2]
        init = assign_nearest(xy, strides, image.centers, sizes, self.point_base_scale)
        topk = self.train_cfg.get("topk", 9)
        refine = assign_atss(initial_boxes[inside], per_level, image.boxes, image.centers, topk)
        min_overlap = self.train_cfg.get("gaussian_iou", 0.7)
        heatmap, offsets = corner_targets(xy, strides, per_level, image.boxes, min_overlap)

        def everywhere(part: Tensor, outside: int) -> Tensor:
            full = part.new_full((len(points.xy), *part.shape[1:]), outside)
            full[inside] = part
            return full

        parts = ((init, -1), (refine, -1), (heatmap, 0), (offsets, 0))
        return Targets(inside, *(everywhere(part, outside) for part, outside in parts))

    def _class_loss(
        self,
        outputs: RepPointsOutputs,
        refined: Tensor,
        boxes: Tensor,
        images: Sequence[GroundTruth],
        targets: Targets,
        positive: Tensor,
    ) -> Tensor:
        """The target score is the refined box's IoU with its object (2006.04388)."""
        from mmdet.structures.bbox import bbox_overlaps

        objects = targets.refine[positive]
        labels = torch.full_like(targets.refine, self.num_classes)
        labels[positive] = torch.cat([image.labels for image in images])[objects]
        quality = refined.new_zeros(labels.shape)
        found = refined.flatten(0, 1)[positive]
        quality[positive] = bbox_overlaps(found, boxes[objects], is_aligned=True)
        inside = targets.inside
        logits = flatten_levels(outputs.scores).flatten(0, 1)[inside]
        count = _count(targets.refine >= 0, len(images))
        return self.loss_cls(logits, (labels[inside], quality[inside]), avg_factor=count)

    def _box_loss(
        self,
        loss: Any,
        predicted: Tensor,
        boxes: Tensor,
        objects: Tensor,
        positive: Tensor,
        points: Points,
    ) -> Tensor:
        """Boxes are measured in sizes of their level's objects."""
        unit = (self.point_base_scale * points.strides)[positive % len(points.xy)][:, None]
        targets = boxes[objects[positive]] / unit
        count = _count(objects >= 0, len(predicted))
        return loss(predicted.flatten(0, 1)[positive] / unit, targets, avg_factor=count)

    def _corner_losses(
        self, outputs: RepPointsOutputs, targets: Targets, positive: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        inside, batch = targets.inside, len(outputs.corner_scores[0])
        probabilities = flatten_levels(outputs.corner_scores).sigmoid().flatten(0, 1)
        offsets = flatten_levels(outputs.corner_offsets).unflatten(2, (2, 2)).flatten(0, 1)
        heat_loss = offset_loss = probabilities.new_zeros(())
        for corner in (0, 1):
            heatmap, rows = targets.heatmap[:, corner], positive[corner]
            count = _count(heatmap == 1, batch)
            heat_loss = heat_loss + self.loss_heatmap(
                probabilities[:, corner][inside], heatmap[inside], avg_factor=count
            )
            offset_loss = offset_loss + self.loss_offset(
                offsets[:, corner][rows], targets.offsets[:, corner][rows], avg_factor=count
            )
        return {"loss_heatmap": heat_loss / 2, "loss_offset": offset_loss / 2}

    def _foreground_loss(self, outputs: RepPointsOutputs, images: Sequence[GroundTruth]) -> Tensor:
        size, stride = outputs.foreground[0].shape[2:], self.point_strides[0]
        pairs = [
            foreground_targets(image.boxes, image.labels, self.num_classes, size, stride)
            for image in images
        ]
        target, weight = (torch.stack(part) for part in zip(*pairs, strict=True))

        def at_all_levels(finest: Tensor) -> Tensor:
            return flatten_levels([F.interpolate(finest, x.shape[2:]) for x in outputs.foreground])

        logits = flatten_levels(outputs.foreground)
        return self.loss_sem(logits, at_all_levels(target), at_all_levels(weight))

    def mask_instances(
        self, outputs: RepPointsOutputs, points: Points, images: Tensor, rows: Tensor
    ) -> MaskInstances:
        """Dynamic mask heads of points ``rows`` in ``images``, located at the initial points."""
        assert outputs.mask_params is not None
        initial = flatten_levels(outputs.points_init)[images, rows].unflatten(1, (-1, 2))
        offsets = initial.mean(1).flip(1)
        strides = points.strides[rows][:, None]
        # Half a stride further than the points of boxes, as the released weights expect it.
        locations = offsets * strides + points.xy[rows] + (strides / 2).floor()
        params = flatten_levels(outputs.mask_params)[images, rows]
        return MaskInstances(params, locations, points.levels[rows], images)

    def _candidates(self, outputs: RepPointsOutputs, points: Points, meta: dict) -> InstanceData:
        """Boxes of one image in pixels, moved to verified corners, one per likely class."""
        height, width = meta["img_shape"][:2]
        boxes = self.boxes_of(outputs.points_refine, points)[0]
        limits = values_like(boxes, [width, height, width, height])
        scores = flatten_levels(outputs.scores)[0].sigmoid()
        most = self.test_cfg.get("nms_pre", -1)
        kept, moved = [], []
        all_rows = torch.arange(len(boxes), device=boxes.device)
        per_level = [height * width for height, width in points.sizes]
        for level, rows in enumerate(all_rows.split(per_level)):
            if 0 < most < len(rows):
                rows = rows[scores[rows].amax(1).topk(most).indices]
            found = boxes[rows].clamp(min=0).minimum(limits)
            if level > 0:  # the finest level has no finer corners
                finer = 0 if level < 3 else 1
                found = move_to_corners(
                    found[None],
                    outputs.corner_scores[finer].float(),
                    outputs.corner_offsets[finer].float(),
                    self.point_strides[finer],
                )[0]
                found = found.clamp(min=0).minimum(limits)
            kept.append(rows)
            moved.append(found)
        rows, boxes = torch.cat(kept), torch.cat(moved)
        scores = scores[rows]
        which, labels = (scores > self.test_cfg.get("score_thr", 0.05)).nonzero(as_tuple=True)
        result = InstanceData(
            bboxes=boxes[which], scores=scores[which, labels], labels=labels, points=rows[which]
        )
        # Each corner is moved separately: a box can end up without area.
        return result[(result.bboxes[:, 2:] > result.bboxes[:, :2]).all(1)]

    def _suppress(self, result: InstanceData) -> InstanceData:
        """Non-maximum suppression by class."""
        from mmcv.ops import batched_nms  # its package is large

        if len(result):
            nms = self.test_cfg.get("nms", {"type": "nms", "iou_threshold": 0.6})
            boxes, kept = batched_nms(result.bboxes, result.scores, result.labels, nms)
            result = result[kept]
            result.scores = boxes[:, 4]
        return result[: self.test_cfg.get("max_per_img", 100)]


def _count(positive: Tensor, images: int) -> Tensor:
    """Number of positives ``(B * N,)`` in a batch; an image without any counts as one."""
    return positive.view(images, -1).sum(1).clamp(min=1).sum()


def move_to_corners(boxes: Tensor, scores: Tensor, offsets: Tensor, stride: int) -> Tensor:
    """Move each corner of boxes to the best corner among the 2 x 2 points around it (section 3.4).

    Args:
        boxes: ``(B, n, 4)`` in pixels.
        scores: ``(B, 2, H, W)`` of top left and bottom right corners; only their order counts.
        offsets: ``(B, 4, H, W)`` x, y of top left, x, y of bottom right, from a point, in strides.
        stride: pixels between points.

    Returns:
        ``(B, n, 4)`` boxes in pixels, not clipped to the image.
    """
    height, width = scores.shape[2:]
    steps = torch.arange(4, device=boxes.device)  # x, then y
    moved = []
    for corner in (0, 1):
        part = slice(2 * corner, 2 * corner + 2)
        left, top = (boxes[..., part] / stride).floor().long().unbind(2)
        x = left.clamp(max=width - 2).clamp(min=0)[..., None] + steps % 2  # (B, n, 4)
        y = top.clamp(max=height - 2).clamp(min=0)[..., None] + steps // 2
        x, y = x.clamp(max=width - 1), y.clamp(max=height - 1)
        around = scores[:, corner].flatten(1).gather(1, (y * width + x).flatten(1)).view_as(x)
        best = around.argmax(2, keepdim=True)
        x, y = x.gather(2, best).squeeze(2), y.gather(2, best).squeeze(2)  # (B, n)
        point = (y * width + x)[:, None].expand(-1, 2, -1)
        offset = offsets[:, part].flatten(2).gather(2, point).transpose(1, 2)
        moved.append(torch.stack([x, y], 2) + offset)
    return torch.cat(moved, 2) * stride
