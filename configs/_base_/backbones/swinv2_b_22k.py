"""Swin V2-B, ImageNet-22K weights of 192 pixels and windows of 12, 6 in the last stage."""

_base_ = "./swinv2_t.py"

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_base_patch4_window12_192_22k.pth"
backbone = dict(arch="base", init_cfg=dict(checkpoint=pretrained))
channels = [128, 256, 512, 1024]
