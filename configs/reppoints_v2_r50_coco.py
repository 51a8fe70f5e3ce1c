"""RepPointsV2, R-50, 3x: box AP 46.5, 42 M, 274 G (Table 2a)."""

_base_ = [
    "./_base_/models/reppoints_v2.py",
    "./_base_/datasets/coco_detection_960.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]
