"""Swin-L, ImageNet-22K weights, the only ones published for this size."""

_base_ = "./swin_t.py"

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window7_224_22k.pth"
backbone = dict(arch="large", init_cfg=dict(checkpoint=pretrained))
channels = [192, 384, 768, 1536]
