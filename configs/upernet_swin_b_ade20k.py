"""UperNet, Swin-B (ImageNet-22K), 640: mIoU 50.04, 51.6 at six scales with flip (Table 3)."""

_base_ = [
    "./_base_/models/upernet_swin.py",
    "./_base_/datasets/ade20k_640.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth"

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(arch="base", init_cfg=dict(checkpoint=pretrained)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
