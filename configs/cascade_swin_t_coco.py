"""Cascade Mask R-CNN, Swin-T, 3x: box AP 50.5, mask AP 43.7, 86 M, 745 G (Table 2b)."""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/backbones/swin_t.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), drop_path_rate=0.2),
    neck=dict(in_channels=_base_.pop("channels")),
)
