"""Swin-S, ImageNet-1K weights; the channels of Swin-T."""

_base_ = "./swin_t.py"

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth"
backbone = dict(arch="small", init_cfg=dict(checkpoint=pretrained))
