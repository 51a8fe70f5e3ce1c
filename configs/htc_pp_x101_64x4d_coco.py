"""HTC++, X101-64x4d, 6x: box AP 52.3, mask AP 46.0, 155 M, 1033 G (Swin, Table 2c).

The global self-attention is queries, keys and values of the last feature map, added to it: how it
was adapted to this backbone is not published, but this gives both published sizes.

torchrun --nproc-per-node 8 tools/train.py configs/htc_pp_x101_64x4d_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/htc_pp.py",
    "./_base_/backbones/x101_64x4d.py",
    "./_base_/datasets/coco_htc_pp.py",
    "./_base_/schedules/coco_6x.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(backbone=dict(_base_.pop("backbone"), type="swin_dense.GlobalResNeXt"))
