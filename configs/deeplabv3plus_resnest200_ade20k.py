"""DeepLabV3+, ResNeSt-200, 512: mIoU 48.4 ms+flip, 88 M, 1381 G (Swin, Table 3).

torchrun --nproc-per-node 8 tools/train.py configs/deeplabv3plus_resnest200_ade20k.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/deeplabv3plus_resnest.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k_sgd.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(pretrained="open-mmlab://resnest200", backbone=dict(depth=200))
