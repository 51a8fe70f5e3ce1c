"""ResNeXt-101 64x4d, in place of a ResNet-50."""

_base_ = "./x101_32x4d.py"

backbone = dict(groups=64, init_cfg=dict(checkpoint="open-mmlab://resnext101_64x4d"))
