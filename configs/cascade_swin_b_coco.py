"""Cascade Mask R-CNN, Swin-B, 3x: box AP 51.9, mask AP 45.0, 145 M, 982 G (Swin, Table 2b).

torchrun --nproc-per-node 8 tools/train.py configs/cascade_swin_b_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/backbones/swin_b.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), drop_path_rate=0.3),
    neck=dict(in_channels=_base_.pop("channels")),
)
