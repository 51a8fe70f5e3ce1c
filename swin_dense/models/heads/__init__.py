"""Heads that mmdet 3.3 lacks; importing them registers them under the scope ``swin_dense``."""

from swin_dense.models.heads.box_overlap import InclusiveGIoULoss
from swin_dense.models.heads.conditional_masks import ConditionalMaskHead
from swin_dense.models.heads.foreground import SeparateFocalLoss
from swin_dense.models.heads.reppoints_v2_head import RepPointsV2Head

__all__ = ["ConditionalMaskHead", "InclusiveGIoULoss", "RepPointsV2Head", "SeparateFocalLoss"]
