"""Cascade Mask R-CNN, R-50, 3x: box AP 46.3, mask AP 40.1, 82 M, 739 G (Swin, Table 2b).

torchrun --nproc-per-node 8 tools/train.py configs/cascade_r50_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]
