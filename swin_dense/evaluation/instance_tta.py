"""Test-time augmentation of boxes and masks; mmdet's own merges boxes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from swin_dense.registry import MODELS


@dataclass(frozen=True)
class _View:
    """An image as one of its views: its features and what is known of it."""

    features: tuple[Tensor, ...]
    meta: dict[str, Any]


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
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
        super().__init__(module=module, tta_cfg=ConfigDict(tta_cfg or {}), **kwargs)
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
        boxes = instances.bboxes
        if meta["flip"]:
            boxes = bbox_flip(boxes, meta["ori_shape"], meta["flip_direction"])
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
            axes = {"horizontal": (2,), "vertical": (1,), "diagonal": (1, 2)}
            masks = masks.flip(axes[meta["flip_direction"]])
        return masks.float() / 255

    def _semantic(self, name: str, features: Sequence[Tensor]) -> dict[str, Tensor | None]:
        """HTC's semantic map under the argument ``name``; nothing for other detectors."""
        roi_head = self.module.roi_head
        if not hasattr(roi_head, "with_semantic"):
            return {}
        return {name: roi_head.semantic_head(features)[1] if roi_head.with_semantic else None}
