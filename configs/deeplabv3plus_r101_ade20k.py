"""DeepLabV3+, R-101 (V1c), 512: mIoU 44.1 ms+flip, 63 M, 1021 G (Swin, Table 3).

torchrun --nproc-per-node 8 tools/train.py configs/deeplabv3plus_r101_ade20k.py --launcher pytorch
"""

_base_ = [
    "mmseg::_base_/models/deeplabv3plus_r50-d8.py",
    "./_base_/models/r101_ade20k.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k_sgd.py",
    "./_base_/mmseg_runtime.py",
]

model = _base_.pop("r101_ade20k")
