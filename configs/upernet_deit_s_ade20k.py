"""UperNet, DeiT-S + deconv, 512: mIoU 44.0 ms+flip, 52 M, 1099 G (Swin, Table 3).

torchrun --nproc-per-node 8 tools/train.py configs/upernet_deit_s_ade20k.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/upernet.py",
    "./_base_/backbones/deit_s.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(
    backbone=_base_.pop("backbone"),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.pop("channels")[2]),
)

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={"pos_embed": dict(decay_mult=0.0), "cls_token": dict(decay_mult=0.0)}
    )
)
