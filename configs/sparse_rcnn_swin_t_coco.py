"""Sparse R-CNN, Swin-T, 3x: box AP 47.9, 110 M, 172 G (Table 2a).

300 proposals; counting gives 176 G, of which the published figure seems to leave out 3 G: the
products of the dynamic convolutions and of the attention among proposals.
"""

_base_ = [
    "./_base_/models/sparse_rcnn_swin.py",
    "./_base_/datasets/coco_detection.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth"

model = dict(backbone=dict(arch="tiny", drop_path_rate=0.2, init_cfg=dict(checkpoint=pretrained)))

optim_wrapper = dict(clip_grad=dict(max_norm=1, norm_type=2))  # as the method asks for
