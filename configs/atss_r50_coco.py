"""ATSS, R-50, 3x: box AP 43.5, 32 M, 205 G (Table 2a)."""

_base_ = [
    "./_base_/models/atss.py",
    "./_base_/datasets/coco_detection.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]
