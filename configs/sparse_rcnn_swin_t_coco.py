"""Sparse R-CNN, Swin-T, 3x: box AP 47.9, 110 M, 172 G (Table 2a).

300 proposals; counting gives 176 G, of which the published figure seems to leave out 3 G: the
products of the dynamic convolutions and of the attention among proposals.
"""

_base_ = [
    "./_base_/models/sparse_rcnn.py",
    "./_base_/backbones/swin_t.py",
    "./_base_/datasets/coco_detection.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), drop_path_rate=0.2),
    neck=dict(in_channels=_base_.pop("channels")),
)

optim_wrapper = dict(clip_grad=dict(max_norm=1, norm_type=2))  # as the method asks for
