"""Test-time augmentation of boxes and masks; mmdet's own merges boxes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from swin_dense.registry import MODELS

if TYPE_CHECKING:  # who only segments need not wait for mmdet
    from mmdet.structures import DetDataSample

# Axes of (..., H, W) that a flip mirrors.
_AXES = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


@dataclass(frozen=True)
class _View:
    """An image as one of its views: its features and what is known of it."""

    features: tuple[Tensor, ...]
    meta: dict[str, Any]


@MODELS.register_module()
class InstanceTTAModel(BaseTTAModel):
    """Boxes and masks of a detector, merged over several views of each image.

    The boxes of all views, brought back to the image, pass one more suppression. The boxes that
    remain are then put into every view, and the mask head's probabilities of all views are
    averaged at the size of the image, so that each mask is seen at every scale and flip. Of a
    detector without masks the boxes are merged.

    Args:
        module: a detector, or its config; its masks are those of a region head (Mask R-CNN,
            Cascade, HTC).
        tta_cfg: ``nms`` (mmcv's arguments) and ``max_per_img``, for the boxes of all views.
    """

    def __init__(
        self, module: dict | nn.Module, tta_cfg: dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(module=module, **kwargs)
        self.tta_cfg = ConfigDict(tta_cfg or {})
        roi_head: Any = getattr(self.module, "roi_head", None)
        self.with_masks = roi_head is not None and roi_head.with_mask
        if not self.with_masks:
            return
        self.threshold = roi_head.test_cfg.mask_thr_binary
        # Below 0, mask heads return probabilities (0 to 255) in place of what exceeds a threshold.
        roi_head.test_cfg = ConfigDict({**roi_head.test_cfg, "mask_thr_binary": -1})

    @torch.no_grad()
    def test_step(self, data: dict[str, list]) -> list[DetDataSample]:
        """Predict a batch.

        Args:
            data: ``inputs`` and ``data_samples``, each a list over views of lists over images.

        Returns:
            For every image its boxes, scores, labels and masks ``(n, H, W)`` at its own size.
        """
        if not self.with_masks:
            return super().test_step(data)
        views: list[list[_View]] = []
        samples: list[list[DetDataSample]] = []
        for inputs, data_samples in zip(data["inputs"], data["data_samples"], strict=True):
            batch = self.module.data_preprocessor(
                {"inputs": inputs, "data_samples": data_samples}, False
            )
            features = self.module.extract_feat(batch["inputs"])
            predicted = self._predict_boxes(features, batch["data_samples"])
            samples.append(batch["data_samples"])
            for sample, instances in zip(batch["data_samples"], predicted, strict=True):
                sample.pred_instances = instances
            views.append(
                [
                    _View(tuple(level[i : i + 1] for level in features), sample.metainfo)
                    for i, sample in enumerate(batch["data_samples"])
                ]
            )
        merged = self.merge_preds(list(zip(*samples, strict=True)))
        for sample, of_image in zip(merged, zip(*views, strict=True), strict=True):
            sample.pred_instances.masks = self._predict_masks(sample.pred_instances, of_image)
        return merged

    def merge_preds(self, data_samples_list: list[Sequence[DetDataSample]]) -> list[DetDataSample]:
        """Merge the boxes of the views of each image.

        Args:
            data_samples_list: for each image its views, with boxes at the size of the image.

        Returns:
            The first view of each image, with the boxes of all that one more suppression leaves.
        """
        return [self._merge_boxes(views) for views in data_samples_list]

    def _merge_boxes(self, views: Sequence[DetDataSample]) -> DetDataSample:
        from mmcv.ops import batched_nms

        found = [view.pred_instances for view in views]
        boxes = torch.cat([_flipped(view.pred_instances.bboxes, view.metainfo) for view in views])
        scores = torch.cat([instances.scores for instances in found])
        labels = torch.cat([instances.labels for instances in found])
        if len(boxes):
            kept, order = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
            best = slice(self.tta_cfg.max_per_img)
            boxes, scores, labels = kept[best, :4], kept[best, 4], labels[order][best]
        merged = views[0]
        merged.pred_instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        return merged

    def _predict_boxes(
        self, features: Sequence[Tensor], samples: list[DetDataSample]
    ) -> list[InstanceData]:
        """Boxes of one view of each image, at the size of the image but still flipped."""
        roi_head = self.module.roi_head
        proposals = self.module.rpn_head.predict(features, samples, rescale=False)
        return roi_head.predict_bbox(
            features,
            batch_img_metas=[sample.metainfo for sample in samples],
            rpn_results_list=proposals,
            rcnn_test_cfg=roi_head.test_cfg,
            rescale=True,
            **self._semantic("semantic_feat", features),
        )

    def _predict_masks(self, instances: InstanceData, views: Sequence[_View]) -> Tensor:
        """``(n, H, W)`` of booleans: the mean probability of all views exceeds the threshold."""
        height, width = views[0].meta["ori_shape"][:2]
        total = torch.zeros(len(instances), height, width, device=instances.bboxes.device)
        if not len(instances):
            return total.bool()
        for view in views:
            total += self._mask_probabilities(instances, view)
        return total / len(views) >= self.threshold

    def _mask_probabilities(self, instances: InstanceData, view: _View) -> Tensor:
        """``(n, H, W)`` of the unflipped image, from one view of it."""
        meta = view.meta
        boxes = _flipped(instances.bboxes, meta)
        boxes = boxes * boxes.new_tensor(meta["scale_factor"]).repeat(2)
        seen = InstanceData(bboxes=boxes, labels=instances.labels, scores=instances.scores)
        masks = self.module.roi_head.predict_mask(
            view.features,
            # The masks of the view as it is; cascades would undo the flip, which fails on tensors.
            batch_img_metas=[{**meta, "flip": False}],
            results_list=[seen],
            rescale=True,
            # Sic: HTC names the same map differently in its two methods.
            **self._semantic("semantic_heat", view.features),
        )[0].masks
        if meta["flip"]:
            masks = masks.flip(_AXES[meta["flip_direction"]])
        return masks.float() / 255

    def _semantic(self, name: str, features: Sequence[Tensor]) -> dict[str, Tensor | None]:
        """HTC's semantic map under the argument ``name``; nothing for other detectors."""
        roi_head = self.module.roi_head
        if not hasattr(roi_head, "with_semantic"):
            return {}
        return {name: roi_head.semantic_head(features)[1] if roi_head.with_semantic else None}


def _flipped(boxes: Tensor, meta: dict[str, Any]) -> Tensor:
    """Boxes ``(n, 4)`` at the size of the image, mirrored as the view is; twice is no change."""
    if not meta["flip"]:
        return boxes
    height, width = meta["ori_shape"][:2]
    x1, y1, x2, y2 = boxes.unbind(-1)
    if meta["flip_direction"] in ("horizontal", "diagonal"):
        x1, x2 = width - x2, width - x1
    if meta["flip_direction"] in ("vertical", "diagonal"):
        y1, y2 = height - y2, height - y1
    return torch.stack([x1, y1, x2, y2], -1)
