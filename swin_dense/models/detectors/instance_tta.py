"""Test-time augmentation of boxes and masks; mmdet's own merges boxes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from swin_dense.models.transfer import values_like
from swin_dense.registry import MODELS

if TYPE_CHECKING:  # mmdet takes long to import, and segmentors do not need it
    from mmdet.structures import DetDataSample

# Axes of (..., H, W) that a flip mirrors.
_AXES = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


@MODELS.register_module()
class InstanceTTAModel(BaseTTAModel):
    """Boxes and masks of a detector, merged over several views of each image.

    The boxes of all views, mapped back to the image, pass non-maximum suppression once more. The
    remaining boxes are mapped to every view, and the mask head's probabilities are averaged over
    views at the size of the image. Of a detector without masks only the boxes are merged.

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
        if self.with_masks:
            self.threshold = roi_head.test_cfg.mask_thr_binary
            # With a negative threshold, mask heads return probabilities (0 to 255).
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
        views: list[tuple[Sequence[Tensor], list[DetDataSample]]] = []
        for inputs, data_samples in zip(data["inputs"], data["data_samples"], strict=True):
            view = {"inputs": inputs, "data_samples": data_samples}
            batch = self.module.data_preprocessor(view, False)
            features, samples = self.module.extract_feat(batch["inputs"]), batch["data_samples"]
            predicted = self._predict_boxes(features, samples)
            for sample, instances in zip(samples, predicted, strict=True):
                sample.pred_instances = instances
            views.append((features, samples))
        merged = self.merge_preds(list(zip(*(samples for _, samples in views), strict=True)))
        for i, sample in enumerate(merged):
            probabilities: Any = 0
            for features, samples in views:
                own = tuple(level[i : i + 1] for level in features)
                meta = samples[i].metainfo
                probabilities += self._mask_probabilities(sample.pred_instances, own, meta)
            sample.pred_instances.masks = probabilities / len(views) >= self.threshold
        return merged

    def merge_preds(self, data_samples_list: list[Sequence[DetDataSample]]) -> list[DetDataSample]:
        """Return the first view of each image, with the merged boxes of its views.

        Args:
            data_samples_list: for each image its views, with boxes at the size of the image.
        """
        return [self._merge_boxes(views) for views in data_samples_list]

    def _merge_boxes(self, views: Sequence[DetDataSample]) -> DetDataSample:
        from mmcv.ops import batched_nms

        found = [view.pred_instances for view in views]
        boxes = torch.cat([_flip(view.pred_instances.bboxes, view.metainfo) for view in views])
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

    def _mask_probabilities(
        self, instances: InstanceData, features: Sequence[Tensor], meta: dict[str, Any]
    ) -> Tensor:
        """``(n, H, W)`` of the unflipped image, from the features of one view of it."""
        if not len(instances):
            return torch.zeros(0, *meta["ori_shape"][:2], device=instances.bboxes.device)
        boxes = _flip(instances.bboxes, meta)
        boxes = boxes * values_like(boxes, meta["scale_factor"]).repeat(2)
        in_view = InstanceData(bboxes=boxes, labels=instances.labels, scores=instances.scores)
        masks = self.module.roi_head.predict_mask(
            features,
            # The masks of the view as it is; cascades would undo the flip, which fails on tensors.
            batch_img_metas=[{**meta, "flip": False}],
            results_list=[in_view],
            rescale=True,
            # HTC names the same feature map differently in its two methods.
            **self._semantic("semantic_heat", features),
        )[0].masks
        if meta["flip"]:
            masks = masks.flip(_AXES[meta["flip_direction"]])
        return masks.float() / 255

    def _semantic(self, name: str, features: Sequence[Tensor]) -> dict[str, Tensor | None]:
        """HTC's semantic feature map as the argument ``name``; nothing for other detectors."""
        roi_head = self.module.roi_head
        if not hasattr(roi_head, "with_semantic"):
            return {}
        return {name: roi_head.semantic_head(features)[1] if roi_head.with_semantic else None}


def _flip(boxes: Tensor, meta: dict[str, Any]) -> Tensor:
    """Boxes ``(n, 4)`` at the size of the image, mirrored as the view is; its own inverse."""
    from mmdet.structures.bbox import bbox_flip

    return bbox_flip(boxes, meta["ori_shape"], meta["flip_direction"]) if meta["flip"] else boxes
