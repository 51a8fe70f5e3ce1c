"""mmdet's RoI extractor, with boxes that stay in float32 under mixed precision."""

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as MMDetSingleRoIExtractor
from torch import Tensor

from swin_dense.registry import MODELS

_LOW_PRECISION = (torch.float16, torch.bfloat16)


@MODELS.register_module()
class SingleRoIExtractor(MMDetSingleRoIExtractor):
    """Pool regions from the feature map of their size; arguments are mmdet's.

    mmdet casts regions to the type of the feature maps. bfloat16 has 8 bits of mantissa, so that a
    coordinate of 1100 moves by up to 4 pixels; float16 moves it by half a pixel. Here the maps are
    cast to float32 for pooling and the result back. In float32 all is mmdet's, bit for bit.
    """

    def forward(
        self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """Regions ``(n, 5)``, as image index and corners, to ``(n, C, H, W)`` of the maps' type.

        Args:
            feats: a map ``(B, C, H, W)`` for each stride.
            rois: regions in pixels of the image.
            roi_scale_factor: by which regions grow before they are pooled.
        """
        dtype = feats[0].dtype
        if dtype in _LOW_PRECISION:
            feats = tuple(level.float() for level in feats)
        return super().forward(feats, rois, roi_scale_factor).to(dtype)
