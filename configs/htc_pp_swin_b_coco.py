"""HTC++, Swin-B, 6x: box AP 56.4, mask AP 49.1, 160 M, 1043 G (Table 2c)."""

_base_ = [
    "./_base_/models/htc_pp_swin.py",
    "./_base_/datasets/coco_htc_pp.py",
    "./_base_/schedules/coco_6x.py",
    "./_base_/mmdet_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth"

model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
