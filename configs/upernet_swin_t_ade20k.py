"""UperNet, Swin-T, 512: mIoU 44.51, 46.1 ms+flip, 60 M, 945 G (Swin, Table 3).

torchrun --nproc-per-node 8 tools/train.py configs/upernet_swin_t_ade20k.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/upernet.py",
    "./_base_/backbones/swin_t.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), drop_path_rate=0.3),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.pop("channels")[2]),
)
