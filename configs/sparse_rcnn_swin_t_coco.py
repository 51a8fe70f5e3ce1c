"""Sparse R-CNN, Swin-T, 3x: box AP 47.9, 110 M, 172 G (Swin, Table 2a).

300 proposals. Counting gives 176 G. The published number seems to lack 3 G of it: the products of
the dynamic convolutions and of the attention among proposals.

torchrun --nproc-per-node 8 tools/train.py configs/sparse_rcnn_swin_t_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/sparse_rcnn.py",
    "./_base_/backbones/swin_t.py",
    "./_base_/datasets/coco_detection.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"), neck=dict(in_channels=_base_.pop("channels")))

optim_wrapper = dict(clip_grad=dict(max_norm=1, norm_type=2))  # part of the method
