"""One forward of a detector with a fixed number of regions, so that shapes are all it needs.

What a detector does with an image depends on what is in it: how many regions survive the
suppression of duplicates, on which level each is pooled. The paper's counts (and speeds of
published detectors) take 1000 regions for every box head and 100 for every mask head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead, SparseRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor

BOX_REGIONS = 1000
MASK_REGIONS = 100

Maps = tuple[Tensor, ...]


def forward_detector(model: Any, images: Tensor) -> None:
    """Backbone, neck and heads of an mmdet detector on ``(1, 3, H, W)``, on the meta device."""
    maps = model.extract_feat(images)
    with _pooling_by_shape():
        if getattr(model, "roi_head", None) is None:
            _one_stage(model, maps)
        elif isinstance(model.roi_head, SparseRoIHead):
            _sparse(model, maps)
        else:
            model.rpn_head(maps)
            _regions(model.roi_head, maps)


def _one_stage(model: Any, maps: Maps) -> None:
    model.bbox_head(maps)


def _regions(head: Any, maps: Maps) -> None:
    """Box heads, then mask heads, as mmdet predicts with them."""
    rois = maps[0].new_zeros(BOX_REGIONS, 5)
    more = {}
    if isinstance(head, HybridTaskCascadeRoIHead) and head.with_semantic:
        more["semantic_feat"] = head.semantic_head(maps)[1]
    if isinstance(head, CascadeRoIHead):
        for stage in range(head.num_stages):
            head._bbox_forward(stage, maps, rois, **more)
    else:
        head._bbox_forward(maps, rois)
    if not head.with_mask:
        return
    rois = rois[:MASK_REGIONS]
    if isinstance(head, HybridTaskCascadeRoIHead):
        head._mask_forward(-1, maps, rois, training=False, **more)  # all stages, interleaved
    elif isinstance(head, CascadeRoIHead):
        for stage in range(head.num_stages):
            head._mask_forward(stage, maps, rois)
    else:
        head._mask_forward(maps, rois)


def _sparse(model: Any, maps: Maps) -> None:
    """Sparse R-CNN: as many regions as it has learned proposals, in every stage."""
    head, proposals = model.roi_head, model.rpn_head
    features = proposals.init_proposal_features.weight[None]
    rois = maps[0].new_zeros(proposals.num_proposals, 5)
    for stage in range(head.num_stages):
        extractor = head.bbox_roi_extractor[stage]
        pooled = extractor(maps[: extractor.num_inputs], rois)
        _, _, features, _ = head.bbox_head[stage](pooled, features)


@contextlib.contextmanager
def _pooling_by_shape() -> Iterator[None]:
    """Region pooling (interpolation, which does not count) returns its shape and no more.

    mmdet's looks at the boxes to find the map that each is pooled from.
    """

    def forward(self: Any, maps: Maps, rois: Tensor, roi_scale_factor: Any = None) -> Tensor:
        return maps[0].new_empty(len(rois), self.out_channels, *self.roi_layers[0].output_size)

    with mock.patch.object(SingleRoIExtractor, "forward", forward):
        yield
