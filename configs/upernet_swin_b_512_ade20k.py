"""UperNet, Swin-B, 512: mIoU 48.13, 49.72 at six scales with flip (official result table)."""

_base_ = [
    "./_base_/models/upernet_swin.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224.pth"

model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint=pretrained)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
