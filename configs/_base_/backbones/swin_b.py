"""Swin-B, ImageNet-1K weights."""

_base_ = "./swin_t.py"

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224.pth"
backbone = dict(arch="base", init_cfg=dict(checkpoint=pretrained))
channels = [128, 256, 512, 1024]
