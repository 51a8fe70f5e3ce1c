"""Cascade Mask R-CNN, Swin-T, 3x: box AP 50.5, mask AP 43.7, 86 M, 745 G (Swin, Table 2b).

torchrun --nproc-per-node 8 tools/train.py configs/cascade_swin_t_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/backbones/swin_t.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"), neck=dict(in_channels=_base_.pop("channels")))
