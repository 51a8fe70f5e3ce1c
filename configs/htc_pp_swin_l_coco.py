"""HTC++, Swin-L, 3x: box AP 57.1, mask AP 49.5, 284 M, 1470 G (Swin, Table 2c).

With ``--tta``, multi-scale testing: box AP 58.0, mask AP 50.4.

torchrun --nproc-per-node 8 tools/train.py configs/htc_pp_swin_l_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/htc_pp.py",
    "./_base_/backbones/swin_l_22k.py",
    "./_base_/datasets/coco_htc_pp.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), global_attention=True),
    neck=dict(in_channels=_base_.pop("channels")),
)
