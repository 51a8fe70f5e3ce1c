"""RepPointsV2, Swin-T, 3x: box AP 50.0, 45 M, 283 G (Table 2a)."""

_base_ = [
    "./_base_/models/reppoints_v2_swin.py",
    "./_base_/datasets/coco_detection_960.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth"

model = dict(backbone=dict(arch="tiny", drop_path_rate=0.2, init_cfg=dict(checkpoint=pretrained)))
