"""Cascade Mask R-CNN, X101-32x4d, 3x: box AP 48.1, mask AP 41.6, 101 M, 819 G (Swin, Table 2b).

torchrun --nproc-per-node 8 tools/train.py configs/cascade_x101_32x4d_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/backbones/x101_32x4d.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"))
