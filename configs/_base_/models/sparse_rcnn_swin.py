"""Sparse R-CNN, as installed with mmdet, on a Swin backbone."""

_base_ = "./sparse_rcnn.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="swin_dense.SwinTransformer",
        arch="tiny",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint=None),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
