"""UperNet, Swin-S, 512: mIoU 47.64, 49.3 ms+flip, 81 M, 1038 G (Swin, Table 3).

torchrun --nproc-per-node 8 tools/train.py configs/upernet_swin_s_ade20k.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/upernet.py",
    "./_base_/backbones/swin_s.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), drop_path_rate=0.3),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.pop("channels")[2]),
)
