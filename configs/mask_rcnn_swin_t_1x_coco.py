"""Mask R-CNN, Swin-T, 1x: box AP 43.7, mask AP 39.8 (official result table).

torchrun --nproc-per-node 8 tools/train.py configs/mask_rcnn_swin_t_1x_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/mask_rcnn.py",
    "./_base_/backbones/swin_t.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_1x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), drop_path_rate=0.1),
    neck=dict(in_channels=_base_.pop("channels")),
)
