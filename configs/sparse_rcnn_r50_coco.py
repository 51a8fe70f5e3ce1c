"""Sparse R-CNN, R-50, 3x: box AP 44.5, 106 M, 166 G (Table 2a).

300 proposals; counting gives 168 G, of which the published figure seems to leave out 3 G: the
products of the dynamic convolutions and of the attention among proposals.
"""

_base_ = [
    "./_base_/models/sparse_rcnn.py",
    "./_base_/datasets/coco_detection.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

optim_wrapper = dict(clip_grad=dict(max_norm=1, norm_type=2))  # as the method asks for
