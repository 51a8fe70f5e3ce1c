"""One forward of a detector or segmentor, on shapes alone.

What a detector does with an image depends on what is in it: how many regions survive the
suppression of duplicates, on which level each is pooled. The paper's counts (and the speeds of
published detectors) take 1000 regions for every box head and 100 for every mask head.
"""

from __future__ import annotations

from typing import Any

from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead, SparseRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

BOX_REGIONS = 1000
MASK_REGIONS = 100

FeatureMaps = tuple[Tensor, ...]


class PooledShapes(nn.Module):
    """Stands in for an RoI extractor: an empty tensor of the result's shape.

    Pooling is interpolation, which does not count, and mmdet's reads the boxes to find the feature
    map that each is pooled from, which tensors on the meta device do not have.
    """

    def __init__(self, extractor: SingleRoIExtractor) -> None:
        super().__init__()
        self.num_inputs = extractor.num_inputs
        self.shape = (extractor.out_channels, *extractor.roi_layers[0].output_size)

    def forward(self, maps: FeatureMaps, rois: Tensor, roi_scale_factor: Any = None) -> Tensor:
        """``(N, 5)`` regions to ``(N, C, H, W)``."""
        return maps[0].new_empty(len(rois), *self.shape)


def pool_shapes(model: nn.Module) -> None:
    """Replace every RoI extractor of a model by :class:`PooledShapes`."""
    # An extractor that two heads share has two names.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, SingleRoIExtractor):
            model.set_submodule(name, PooledShapes(module))


def forward_segmentor(model: Any, images: Tensor) -> Tensor:
    """Scores of an mmseg segmentor for ``(1, 3, H, W)``: ``(1, classes, H, W)``.

    Auxiliary heads serve training only and do not run.
    """
    return model.encode_decode(images, [{"img_shape": tuple(images.shape[2:])}])


def forward_detector(model: Any, images: Tensor) -> None:
    """Backbone, neck and heads of an mmdet detector on ``(1, 3, H, W)``, on the meta device.

    The model's regions are pooled by :class:`PooledShapes`.
    """
    maps = model.extract_feat(images)
    if getattr(model, "roi_head", None) is None:
        model.bbox_head(maps)
    elif isinstance(model.roi_head, SparseRoIHead):
        _sparse_rcnn(model, maps)
    else:
        model.rpn_head(maps)
        _regions(model.roi_head, maps)


def _regions(head: Any, maps: FeatureMaps) -> None:
    """Box heads, then mask heads, as mmdet predicts with them."""
    rois = maps[0].new_zeros(BOX_REGIONS, 5)
    is_htc = isinstance(head, HybridTaskCascadeRoIHead)
    is_cascade = isinstance(head, CascadeRoIHead)
    stages = [(stage,) for stage in range(head.num_stages)] if is_cascade else [()]
    more = {}
    if is_htc and head.with_semantic:
        more["semantic_feat"] = head.semantic_head(maps)[1]
    for stage in stages:
        head._bbox_forward(*stage, maps, rois, **more)
    if not head.with_mask:
        return
    rois = rois[:MASK_REGIONS]
    if is_htc:
        head._mask_forward(-1, maps, rois, training=False, **more)  # all stages, interleaved
        return
    for stage in stages:
        head._mask_forward(*stage, maps, rois)


def _sparse_rcnn(model: Any, maps: FeatureMaps) -> None:
    """As many regions as there are learned proposals, in every stage."""
    head, proposals = model.roi_head, model.rpn_head
    features = proposals.init_proposal_features.weight[None]
    rois = maps[0].new_zeros(proposals.num_proposals, 5)
    for stage in range(head.num_stages):
        extractor = head.bbox_roi_extractor[stage]
        pooled = extractor(maps[: extractor.num_inputs], rois)
        _, _, features, _ = head.bbox_head[stage](pooled, features)
