"""ATSS, R-50, 3x: box AP 43.5, 32 M, 205 G (Swin, Table 2a).

torchrun --nproc-per-node 8 tools/train.py configs/atss_r50_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/atss.py",
    "./_base_/datasets/coco_detection.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]
