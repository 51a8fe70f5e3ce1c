"""HTC++, X101-64x4d, 6x: box AP 52.3, mask AP 46.0, 155 M, 1033 G (Swin, Table 2c).

The published size includes the global self-attention, but how that was adapted to the channels of
this backbone is not published, so this config omits it: 142 M, 1016 G. The published size is that of
Cascade Mask R-CNN with X101-64x4d (140 M, 972 G) plus what HTC++ adds to Swin-B (15 M, 61 G).

torchrun --nproc-per-node 8 tools/train.py configs/htc_pp_x101_64x4d_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/htc_pp.py",
    "./_base_/backbones/x101_64x4d.py",
    "./_base_/datasets/coco_htc_pp.py",
    "./_base_/schedules/coco_6x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=_base_.pop("backbone"))
