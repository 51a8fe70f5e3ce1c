"""Cascade Mask R-CNN, X101-64x4d, 3x: box AP 48.3, mask AP 41.7, 140 M, 972 G (Swin, Table 2b).

torchrun --nproc-per-node 8 tools/train.py configs/cascade_x101_64x4d_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/backbones/x101_64x4d.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"))
