"""UperNet, Swin-S, 512: mIoU 47.64, 49.3 at six scales with flip, 81 M, 1038 G (Table 3)."""

_base_ = [
    "./_base_/models/upernet_swin.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth"

model = dict(backbone=dict(arch="small", init_cfg=dict(checkpoint=pretrained)))
