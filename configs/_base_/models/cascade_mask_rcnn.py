"""Cascade Mask R-CNN as the Swin paper runs it, with ResNet-50 and three 4conv1fc box heads."""

_base_ = ["mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py", "./box_heads_4conv1fc.py"]

model = dict(
    roi_head=dict(
        bbox_head=_base_.box_heads,
        # Under AMP, mmdet's would round the corners of regions to 16 bits.
        bbox_roi_extractor=dict(type="swin_dense.SingleRoIExtractor"),
        mask_roi_extractor=dict(type="swin_dense.SingleRoIExtractor"),
    )
)
del _base_["box_heads"]
