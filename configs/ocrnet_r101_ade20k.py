"""OCRNet, R-101 (V1c), 512: mIoU 45.3 ms+flip, 56 M, 923 G (Swin, Table 3).

torchrun --nproc-per-node 8 tools/train.py configs/ocrnet_r101_ade20k.py --launcher pytorch
"""

_base_ = [
    "mmseg::_base_/models/ocrnet_r50-d8.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k_sgd.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained="open-mmlab://resnet101_v1c",
    backbone=dict(depth=101),
    decode_head=[dict(head, num_classes=150) for head in _base_.model.decode_head],
)
