"""Cascade Mask R-CNN, Swin-S, 3x: box AP 51.8, mask AP 44.7, 107 M, 838 G (Table 2b)."""

_base_ = [
    "./_base_/models/cascade_swin.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth"

model = dict(backbone=dict(arch="small", drop_path_rate=0.2, init_cfg=dict(checkpoint=pretrained)))
