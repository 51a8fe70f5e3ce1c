"""Mask R-CNN, Swin-S, 3x: box AP 48.5, mask AP 43.3 (official result table).

torchrun --nproc-per-node 8 tools/train.py configs/mask_rcnn_swin_s_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/mask_rcnn.py",
    "./_base_/backbones/swin_s.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"), neck=dict(in_channels=_base_.pop("channels")))
