"""HTC++ without its semantic branch, X101-64x4d, 6x: needs no COCO-stuff label maps.

torchrun --nproc-per-node 8 tools/train.py configs/htc_pp_without_semantic_x101_64x4d_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/htc_pp_without_semantic.py",
    "./_base_/backbones/x101_64x4d.py",
    "./_base_/datasets/coco_htc_pp_without_semantic.py",
    "./_base_/schedules/coco_6x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=dict(_base_.pop("backbone"), type="swin_dense.GlobalResNeXt"))
