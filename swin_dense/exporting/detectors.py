"""Detectors as graphs: their heads, with the choice of boxes inside, for tensors of fixed sizes.

What mmdet does image by image, with lists as long as there are boxes, is done here for the batch,
with lists of one length whose rest counts as nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from swin_dense.errors import UserError
from swin_dense.exporting.detections import (
    NOTHING,
    Detections,
    soft_suppress,
    suppress,
    take,
    top_scores,
)
from swin_dense.models.heads.conditional_mask_head import upsample
from swin_dense.models.heads.reppoints_v2_head import move_to_corners
from swin_dense.models.heads.reppoints_v2_targets import pyramid_points

Size = tuple[int, int]


def _detections(boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
    """Blank what is nothing."""
    found = scores > 0
    return Detections(
        torch.where(found[:, :, None], boxes, 0.0),
        scores.clamp(min=0),
        torch.where(found, labels, -1),
    )


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, cfg: Any) -> tuple[Tensor, Tensor]:
    """The suppression of a test config, see :func:`~.detections.suppress`."""
    kind, count = cfg.nms.get("type", "nms"), cfg.max_per_img
    if kind not in ("nms", "soft_nms") or cfg.nms.get("class_agnostic"):
        raise UserError(f"boxes are chosen by {dict(cfg.nms)}: nms and soft_nms by class export")
    if kind == "soft_nms":
        return soft_suppress(boxes, scores, groups, count, cfg.nms)
    return suppress(boxes, scores, groups, count, cfg.nms.iou_threshold)


def _decode(coder: Any, anchors: Tensor, deltas: Tensor, size: Size) -> Tensor:
    """Boxes ``(..., 4)`` within the image, of anchors and what a head predicts for them."""
    boxes: Tensor = coder.decode(anchors.reshape(-1, 4), deltas.reshape(-1, 4), max_shape=size)
    return boxes.view(deltas.shape)


def _large(boxes: Tensor, cfg: Any) -> Tensor:
    """Which boxes ``(..., 4)`` have sides above ``min_bbox_size``."""
    smallest = cfg.get("min_bbox_size", -1)
    sides = boxes[..., 2:] - boxes[..., :2]
    return (sides > (smallest if smallest >= 0 else -torch.inf)).all(-1)


def _flat(x: Tensor, channels: int) -> Tensor:
    """``(B, A * channels, H, W)`` to ``(B, H * W * A, channels)``."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)


def _anchors(head: Any, maps: Sequence[Tensor]) -> list[Tensor]:
    """Anchors ``(H_i * W_i * A, 4)`` of each map ``(B, C, H_i, W_i)``."""
    sizes = [x.shape[2:] for x in maps]
    found: list[Tensor] = head.prior_generator.grid_priors(sizes, maps[0].dtype, maps[0].device)
    return found


def _propose(head: Any, features: Sequence[Tensor], size: Size) -> tuple[Tensor, Tensor]:
    """A region proposal network's boxes ``(B, n, 4)`` and scores ``(B, n)``."""
    cfg, found = head.test_cfg, []
    all_scores, all_deltas = head(features)
    for scores, deltas, anchors in zip(
        all_scores, all_deltas, _anchors(head, all_scores), strict=True
    ):
        scores = _flat(scores, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
        best, index = top_scores(scores[..., 0], cfg.nms_pre)
        chosen = take(_flat(deltas, 4), index)
        found.append((_decode(head.bbox_coder, anchors[index], chosen, size), best))
    boxes, scores = (torch.cat(part, 1) for part in zip(*found, strict=True))
    scores = torch.where(_large(boxes, cfg), scores, NOTHING)
    levels = torch.arange(len(found), device=boxes.device).repeat_interleave(cfg.nms_pre)
    scores, index = _suppress(boxes, scores, levels, cfg)
    return take(boxes, index), scores


def _regions(boxes: Tensor) -> Tensor:
    """Boxes ``(B, n, 4)`` as regions ``(B * n, 5)`` with the index of their image."""
    image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    return torch.cat([image[:, None, None].expand_as(boxes[..., :1]), boxes], 2).flatten(0, 1)


def _probabilities(head: Any, scores: Tensor) -> Tensor:
    if head.custom_cls_channels:
        found: Tensor = head.loss_cls.get_activation(scores)
        return found
    return scores.softmax(-1)


class Head:
    """What makes detections of feature maps, for images of one size.

    Attributes:
        threshold: of a mask's probabilities.
    """

    threshold = 0.5

    def __call__(self, features: Sequence[Tensor], size: Size) -> Detections:
        """Feature maps ``(B, C, H_i, W_i)`` to detections of B images."""
        raise NotImplementedError

    def paste(self, masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
        """Masks ``(n, h, w)`` of boxes as probabilities ``(n, H, W)`` in an image."""
        raise NotImplementedError


class RoIHead(Head):
    """A head of regions: one stage (Mask R-CNN), or several that refine boxes (Cascade, HTC)."""

    def __init__(self, model: Any) -> None:
        self.rpn_head, self.head = model.rpn_head, model.roi_head
        self.cascade = hasattr(self.head, "num_stages")
        self.threshold = self.head.test_cfg.get("mask_thr_binary", 0.5)

    def __call__(self, features: Sequence[Tensor], size: Size) -> Detections:
        """See :meth:`Head.__call__`."""
        head, stages = self.head, self.head.bbox_head if self.cascade else [self.head.bbox_head]
        boxes, proposed = _propose(self.rpn_head, features, size)
        extra = {}
        if getattr(head, "with_semantic", False):  # HTC's, of the whole image
            extra["semantic_feat"] = head.semantic_head(features)[1]
        regions, total = _regions(boxes), torch.zeros(())
        for i, stage in enumerate(stages):
            which = {"stage": i} if self.cascade else {}
            found = head._bbox_forward(x=features, rois=regions, **which, **extra)
            total = total + found["cls_score"]
            if i + 1 < len(stages):
                scores = found["cls_score"]
                if stage.custom_activation:
                    scores = stage.loss_cls.get_activation(scores)
                label, meta = scores[:, :-1].argmax(1), {"img_shape": size}
                refined = stage.regress_by_class(regions[:, 1:], label, found["bbox_pred"], meta)
                regions = torch.cat([regions[:, :1], refined], 1)
        count, classes = boxes.shape[1], stages[-1].num_classes
        scores = _probabilities(stages[-1], total / len(stages))[:, :classes]
        deltas = found["bbox_pred"].view(regions.shape[0], -1, 4)
        anchors = regions[:, None, 1:].expand_as(deltas)
        boxes = _decode(stages[-1].bbox_coder, anchors, deltas, size)
        boxes = boxes.expand(-1, classes, -1).reshape(-1, count * classes, 4)
        cfg = head.test_cfg
        likely = (scores > cfg.score_thr).view(-1, count, classes) & (proposed > 0)[:, :, None]
        scores = torch.where(likely, scores.view(-1, count, classes), NOTHING).flatten(1)
        labels = torch.arange(classes, device=boxes.device).repeat(count)
        scores, index = _suppress(boxes, scores, labels, cfg)
        result = _detections(take(boxes, index), scores, labels[index])
        return result._replace(masks=self._masks(features, result, extra))

    def _masks(
        self, features: Sequence[Tensor], found: Detections, extra: dict[str, Tensor]
    ) -> Tensor | None:
        """Probabilities within boxes, the mean of all stages as mmdet takes it."""
        head = self.head
        if not head.with_mask:
            return None
        regions = _regions(found.boxes)
        if hasattr(head, "with_semantic"):
            options = {"training": False, **extra}
            logits = head._mask_forward(-1, features, regions, **options)["mask_preds"]
        elif self.cascade:
            stages = range(head.num_stages)
            logits = [head._mask_forward(i, features, regions)["mask_preds"] for i in stages]
        else:
            logits = [head._mask_forward(features, regions)["mask_preds"]]
        masks = torch.stack([x.sigmoid() for x in logits]).mean(0)
        if masks.shape[1] > 1:
            label = found.labels.clamp(min=0).flatten()[:, None]
            masks = take(masks, label)
        return masks[:, 0].unflatten(0, found.labels.shape)

    def paste(self, masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
        """See :meth:`Head.paste`."""
        from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

        pasted: Tensor = _do_paste_mask(masks[:, None], boxes, *size, skip_empty=False)[0]
        return pasted


class ATSSHead(Head):
    """A dense head with an anchor for each point and the centreness of boxes."""

    def __init__(self, model: Any) -> None:
        self.head = model.bbox_head

    def __call__(self, features: Sequence[Tensor], size: Size) -> Detections:
        """See :meth:`Head.__call__`."""
        head, found = self.head, []
        cfg, classes = head.test_cfg, head.cls_out_channels
        outputs = head(features)
        for scores, deltas, centers, anchors in zip(
            *outputs, _anchors(head, outputs[0]), strict=True
        ):
            likely = _flat(scores, classes).sigmoid().flatten(1)
            likely = torch.where(likely > cfg.score_thr, likely, NOTHING)
            best, index = top_scores(likely, cfg.nms_pre)
            point, label = index // classes, index % classes
            boxes = _decode(head.bbox_coder, anchors[point], take(_flat(deltas, 4), point), size)
            center = take(_flat(centers, 1).sigmoid()[..., 0], point)
            best = torch.where(_large(boxes, cfg), best * center, NOTHING)
            found.append((boxes, best, label))
        boxes, scores, labels = (torch.cat(part, 1) for part in zip(*found, strict=True))
        scores, index = _suppress(boxes, scores, labels, cfg)
        return _detections(take(boxes, index), scores, take(labels, index))


class SparseHead(Head):
    """Sparse R-CNN: learned proposals, refined by several stages, without suppression."""

    def __init__(self, model: Any) -> None:
        self.proposals, self.head = model.rpn_head, model.roi_head

    def __call__(self, features: Sequence[Tensor], size: Size) -> Detections:
        """See :meth:`Head.__call__`."""
        head, batch = self.head, features[0].shape[0]
        center, sides = self.proposals.init_proposal_bboxes.weight.split(2, dim=1)
        corners = torch.cat([center - sides / 2, center + sides / 2], 1)
        height, width = size
        boxes = torch.stack([corners[:, i] * (height if i % 2 else width) for i in range(4)], 1)
        boxes = boxes.expand(batch, -1, -1)
        objects = self.proposals.init_proposal_features.weight.expand(batch, -1, -1)
        for extractor, stage in zip(head.bbox_roi_extractor, head.bbox_head, strict=True):
            regions = _regions(boxes)
            pooled = extractor(features[: extractor.num_inputs], regions)
            logits, deltas, objects, _ = stage(pooled, objects)
            boxes = _decode(stage.bbox_coder, boxes, deltas, size)
        last = head.bbox_head[-1]
        scores = logits.sigmoid() if last.loss_cls.use_sigmoid else logits.softmax(-1)[..., :-1]
        best, index = scores.flatten(1).topk(head.test_cfg.max_per_img)
        return _detections(take(boxes, index // last.num_classes), best, index % last.num_classes)


class RepPointsV2Head(Head):
    """Boxes of representative points, moved to verified corners; masks if the head has them."""

    def __init__(self, model: Any) -> None:
        self.head = model.bbox_head
        self.threshold = self.head.test_cfg.get("mask_thr_binary", 0.5)

    def __call__(self, features: Sequence[Tensor], size: Size) -> Detections:
        """See :meth:`Head.__call__`."""
        head, classes = self.head, self.head.num_classes
        cfg, outputs = head.test_cfg, self.head(features)
        points = pyramid_points(outputs.scores, head.point_strides)
        all_boxes = head.boxes_of(outputs.points_refine, points)
        found, start = [], 0
        for level, logits in enumerate(outputs.scores):
            scores = _flat(logits, classes).sigmoid()
            best, index = top_scores(scores.amax(2), cfg.nms_pre)
            boxes = _within(take(all_boxes, start + index), size)
            if level > 0:  # the finest level has no finer corners
                finer = 0 if level < 3 else 1
                corners = outputs.corner_scores[finer], outputs.corner_offsets[finer]
                moved = move_to_corners(boxes, *corners, head.point_strides[finer])
                boxes = _within(moved, size)
            valid = (best > 0) & (boxes[..., 2:] > boxes[..., :2]).all(2)
            scores = torch.where(valid[..., None], take(scores, index), NOTHING)
            found.append((boxes, scores, start + index))
            start = start + logits.shape[2] * logits.shape[3]
        boxes, scores, points_of = (torch.cat(part, 1) for part in zip(*found, strict=True))
        scores = torch.where(scores > cfg.score_thr, scores, NOTHING).flatten(1)
        labels = torch.arange(classes, device=scores.device).repeat(boxes.shape[1])
        every = boxes.repeat_interleave(classes, 1)
        scores, index = _suppress(every, scores, labels, cfg)
        kept = _detections(take(every, index), scores, labels[index])
        rows = take(points_of, index // classes)
        return kept._replace(masks=self._masks(features, outputs, points, rows))

    def _masks(self, features: Any, outputs: Any, points: Any, rows: Tensor) -> Tensor | None:
        """Probabilities in the whole image, at the mask head's ``out_stride``."""
        if self.head.mask_head is None:
            return None
        images = torch.arange(rows.shape[0], device=rows.device)[:, None].expand(rows.shape)
        instances = self.head.mask_instances(outputs, points, images.flatten(), rows.flatten())
        return self.head.mask_head.probabilities(features, instances).unflatten(0, rows.shape)

    def paste(self, masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
        """See :meth:`Head.paste`."""
        large = upsample(masks[:, None], self.head.mask_head.out_stride)
        return large[:, 0, : size[0], : size[1]]


def _within(boxes: Tensor, size: Size) -> Tensor:
    """Boxes ``(..., 4)`` cut off at the image's edges."""
    x, y = boxes[..., 0::2].clamp(min=0, max=size[1]), boxes[..., 1::2].clamp(min=0, max=size[0])
    return torch.stack([x, y], -1).flatten(-2)


_HEADS: dict[str, Callable[[Any], Head]] = {
    "ATSS": ATSSHead,
    "CascadeRCNN": RoIHead,
    "FasterRCNN": RoIHead,
    "HybridTaskCascade": RoIHead,
    "MaskRCNN": RoIHead,
    "RepPointsDetector": RepPointsV2Head,
    "SparseRCNN": SparseHead,
}


def detector_head(model: Any) -> Head:
    """What makes a detector's detections.

    Raises:
        UserError: there is none for such a detector.
    """
    kind = type(model).__name__
    if kind not in _HEADS:
        raise UserError(f"a {kind} is not exported whole: add --part backbone")
    return _HEADS[kind](model)
