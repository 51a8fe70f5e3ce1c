"""Cascade Mask R-CNN, Swin-S, 3x: box AP 51.8, mask AP 44.7, 107 M, 838 G (Table 2b)."""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/backbones/swin_s.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), drop_path_rate=0.2),
    neck=dict(in_channels=_base_.pop("channels")),
)
