"""Heads that mmdet 3.3 lacks; importing them registers them under the scope ``swin_dense``."""

from swin_dense.models.heads.conditional_mask_head import ConditionalMaskHead
from swin_dense.models.heads.losses import InclusiveGIoULoss, SeparateFocalLoss
from swin_dense.models.heads.reppoints_v2_head import RepPointsV2Head

__all__ = ["ConditionalMaskHead", "InclusiveGIoULoss", "RepPointsV2Head", "SeparateFocalLoss"]
