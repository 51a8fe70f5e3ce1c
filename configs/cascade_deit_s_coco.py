"""Cascade Mask R-CNN, DeiT-S + deconv, 3x: box AP 48.0, mask AP 41.4, 80 M, 889 G (Swin, Table 2b).

torchrun --nproc-per-node 8 tools/train.py configs/cascade_deit_s_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/backbones/deit_s.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"), neck=dict(in_channels=_base_.pop("channels")))

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={"pos_embed": dict(decay_mult=0.0), "cls_token": dict(decay_mult=0.0)}
    )
)
