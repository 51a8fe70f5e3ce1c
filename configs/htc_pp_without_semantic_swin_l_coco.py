"""HTC++ without its semantic branch, Swin-L, 3x: needs no COCO-stuff label maps.

torchrun --nproc-per-node 8 tools/train.py configs/htc_pp_without_semantic_swin_l_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/htc_pp_without_semantic.py",
    "./_base_/backbones/swin_l_22k.py",
    "./_base_/datasets/coco_htc_pp_without_semantic.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), global_attention=True),
    neck=dict(in_channels=_base_.pop("channels")),
)
