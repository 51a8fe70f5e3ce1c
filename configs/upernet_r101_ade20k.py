"""UperNet, R-101 (V1c), 512: mIoU 44.9 ms+flip, 86 M, 1029 G (Swin, Table 3).

The stem of three convolutions, mmseg's V1c, is what the published count has; the plain one of
ResNet makes it 1024 G.

torchrun --nproc-per-node 8 tools/train.py configs/upernet_r101_ade20k.py --launcher pytorch
"""

_base_ = [
    "mmseg::_base_/models/upernet_r50.py",
    "./_base_/models/r101_ade20k.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k_sgd.py",
    "./_base_/mmseg_runtime.py",
]

model = _base_.pop("r101_ade20k")
