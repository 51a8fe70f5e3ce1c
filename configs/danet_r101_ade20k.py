"""DANet, R-101 (V1c), 512: mIoU 45.2 ms+flip, 69 M, 1119 G (Swin, Table 3).

Counting gives 1273 G; 1118 G without the two matrix products of the position attention.

torchrun --nproc-per-node 8 tools/train.py configs/danet_r101_ade20k.py --launcher pytorch
"""

_base_ = [
    "mmseg::_base_/models/danet_r50-d8.py",
    "./_base_/models/r101_ade20k.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k_sgd.py",
    "./_base_/mmseg_runtime.py",
]

model = _base_.pop("r101_ade20k")
