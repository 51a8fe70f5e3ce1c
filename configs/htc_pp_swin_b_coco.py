"""HTC++, Swin-B, 6x: box AP 56.4, mask AP 49.1, 160 M, 1043 G (Swin, Table 2c).

torchrun --nproc-per-node 8 tools/train.py configs/htc_pp_swin_b_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/htc_pp.py",
    "./_base_/backbones/swin_b_22k.py",
    "./_base_/datasets/coco_htc_pp.py",
    "./_base_/schedules/coco_6x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), global_attention=True),
    neck=dict(in_channels=_base_.pop("channels")),
)
