"""ResNeXt-101 32x4d, in place of a ResNet-50."""

backbone = dict(
    type="ResNeXt",
    depth=101,
    groups=32,
    base_width=4,
    init_cfg=dict(checkpoint="open-mmlab://resnext101_32x4d"),
)
