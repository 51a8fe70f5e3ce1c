"""Cascade Mask R-CNN, Swin-S, 3x: box AP 51.8, mask AP 44.7, 107 M, 838 G (Swin, Table 2b).

torchrun --nproc-per-node 8 tools/train.py configs/cascade_swin_s_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/backbones/swin_s.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"), neck=dict(in_channels=_base_.pop("channels")))
