"""UperNet, Swin-B, 512: mIoU 48.13, 49.72 ms+flip (official result table).

torchrun --nproc-per-node 8 tools/train.py configs/upernet_swin_b_512_ade20k.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/upernet.py",
    "./_base_/backbones/swin_b.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), drop_path_rate=0.3),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.pop("channels")[2]),
)
