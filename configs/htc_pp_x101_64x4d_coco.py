"""HTC++, X101-64x4d, 6x: box AP 52.3, mask AP 46.0, 155 M, 1033 G (Table 2c).

The published size has the global self-attention too, but how it was fitted to a backbone of other
channels is not published, so it is left out here: 142 M, 1016 G. Published is Cascade Mask R-CNN
with X101-64x4d (140 M, 972 G) and just what HTC++ adds to Swin-B (15 M, 61 G).
"""

_base_ = [
    "./_base_/models/htc_pp.py",
    "./_base_/backbones/x101_64x4d.py",
    "./_base_/datasets/coco_htc_pp.py",
    "./_base_/schedules/coco_6x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"))
