"""DeepLabV3+ with ResNeSt as mmseg has it, for ADE20K's 150 classes."""

_base_ = "mmseg::_base_/models/deeplabv3plus_r50-d8.py"

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type="ResNeSt",
        stem_channels=128,
        radix=2,
        reduction_factor=4,
        avg_down_stride=True,
    ),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
