"""HTC++, Swin V2-L (ImageNet-22K), windows of 32, 1536, 3x: box AP 58.8, mask AP 51.1 (Swin V2, Table 3).

The recipe is that of Swin V2-L. Without the global attention of the first version's HTC++, of which
the paper of V2 says nothing.

torchrun --nproc-per-node 8 tools/train.py configs/htc_pp_swinv2_l_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/htc_pp.py",
    "./_base_/backbones/swinv2_l_22k.py",
    "./_base_/datasets/coco_htc_pp_1536.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    backbone=dict(_base_.pop("backbone"), window_size=32),
    neck=dict(in_channels=_base_.pop("channels")),
)
optim_wrapper = dict(
    optimizer=dict(lr=0.0004),
    paramwise_cfg=dict(custom_keys=dict(_base_.pop("no_decay"), backbone=dict(lr_mult=0.1))),
)
auto_scale_lr = dict(base_batch_size=64)  # 32 GPUs x 2 images
