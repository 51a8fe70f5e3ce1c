"""Swin-B, ImageNet-22K weights."""

_base_ = "./swin_b.py"

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth"
backbone = dict(init_cfg=dict(checkpoint=pretrained))
