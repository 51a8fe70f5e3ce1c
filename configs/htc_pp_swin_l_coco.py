"""HTC++, Swin-L, 3x: box AP 57.1, mask AP 49.5, 284 M, 1470 G (Table 2c).

With ``--tta``, multi-scale testing: box AP 58.0, mask AP 50.4.
"""

_base_ = [
    "./_base_/models/htc_pp_swin.py",
    "./_base_/datasets/coco_htc_pp.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window7_224_22k.pth"

model = dict(
    backbone=dict(arch="large", init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
