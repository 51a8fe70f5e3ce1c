"""UperNet, Swin-L (ImageNet-22K), 640: mIoU 52.05, 53.5 at six scales with flip (Table 3)."""

_base_ = [
    "./_base_/models/upernet_swin.py",
    "./_base_/datasets/ade20k_640.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window7_224_22k.pth"

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(arch="large", init_cfg=dict(checkpoint=pretrained)),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
