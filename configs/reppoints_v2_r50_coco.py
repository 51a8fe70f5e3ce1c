"""RepPointsV2, R-50, 3x: box AP 46.5, 42 M, 274 G (Swin, Table 2a).

torchrun --nproc-per-node 8 tools/train.py configs/reppoints_v2_r50_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/reppoints_v2.py",
    "./_base_/datasets/coco_detection_960.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]
