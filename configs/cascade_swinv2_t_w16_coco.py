"""Cascade Mask R-CNN, Swin V2-T, windows of 16, 3x: box AP 51.1 (Swin V2, Table 1).

The published model has the log-spaced position bias that the table is about; whether it has the
other two changes of V2 is not said.

torchrun --nproc-per-node 8 tools/train.py configs/cascade_swinv2_t_w16_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/backbones/swinv2_t.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), window_size=16),
    neck=dict(in_channels=_base_.pop("channels")),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.pop("no_decay")))
