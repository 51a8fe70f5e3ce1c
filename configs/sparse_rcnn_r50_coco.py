"""Sparse R-CNN, R-50, 3x: box AP 44.5, 106 M, 166 G (Swin, Table 2a).

300 proposals. Counting gives 168 G. The published number seems to lack 3 G of it: the products of
the dynamic convolutions and of the attention among proposals.

torchrun --nproc-per-node 8 tools/train.py configs/sparse_rcnn_r50_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/sparse_rcnn.py",
    "./_base_/datasets/coco_detection.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

optim_wrapper = dict(clip_grad=dict(max_norm=1, norm_type=2))  # part of the method
