"""Mask R-CNN with ResNet-50, as installed with mmdet; regions stay in float32 under AMP."""

_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(type="swin_dense.SingleRoIExtractor"),
        mask_roi_extractor=dict(type="swin_dense.SingleRoIExtractor"),
    )
)
