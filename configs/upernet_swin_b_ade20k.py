"""UperNet, Swin-B (ImageNet-22K), 640: mIoU 50.04, 51.6 ms+flip (Swin, Table 3).

torchrun --nproc-per-node 8 tools/train.py configs/upernet_swin_b_ade20k.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/upernet.py",
    "./_base_/backbones/swin_b_22k.py",
    "./_base_/datasets/ade20k_640.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(_base_.pop("backbone"), drop_path_rate=0.3),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.pop("channels")[2]),
)
