"""Mask R-CNN, Swin-T, 3x: box AP 46.0, mask AP 41.6 (official result table).

torchrun --nproc-per-node 8 tools/train.py configs/mask_rcnn_swin_t_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/mask_rcnn.py",
    "./_base_/backbones/swin_t.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"), neck=dict(in_channels=_base_.pop("channels")))
