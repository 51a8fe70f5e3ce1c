"""DeepLabV3+, ResNeSt-200, 512: mIoU 48.4 at six scales with flip, 88 M, 1381 G (Table 3)."""

_base_ = [
    "mmseg::_base_/models/deeplabv3plus_r50-d8.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k_sgd.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained="open-mmlab://resnest200",
    backbone=dict(
        type="ResNeSt",
        depth=200,
        stem_channels=128,
        radix=2,
        reduction_factor=4,
        avg_down_stride=True,
    ),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
