"""ATSS, as installed with mmdet, on stages 2-4 of a Swin backbone."""

_base_ = "./atss.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="swin_dense.SwinTransformer",
        arch="tiny",
        drop_path_rate=0.2,
        # One-stage heads start at stride 8; an unused stride-4 output would leave a norm
        # without a gradient, which DistributedDataParallel refuses.
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained", checkpoint=None),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
