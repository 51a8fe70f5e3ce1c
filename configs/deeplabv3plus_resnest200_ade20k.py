"""DeepLabV3+, ResNeSt-200, 512: mIoU 48.4 at six scales with flip, 88 M, 1381 G (Table 3)."""

_base_ = [
    "./_base_/models/deeplabv3plus_resnest.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k_sgd.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(pretrained="open-mmlab://resnest200", backbone=dict(depth=200))
