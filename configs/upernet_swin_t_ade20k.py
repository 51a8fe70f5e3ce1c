"""UperNet, Swin-T, 512: mIoU 44.51, 46.1 at six scales with flip, 60 M, 945 G (Table 3)."""

_base_ = [
    "./_base_/models/upernet_swin.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth"

model = dict(backbone=dict(arch="tiny", init_cfg=dict(checkpoint=pretrained)))
