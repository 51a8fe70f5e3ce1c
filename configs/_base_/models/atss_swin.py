"""ATSS, as installed with mmdet, on stages 2-4 of a Swin backbone."""

_base_ = "mmdet::atss/atss_r50_fpn_1x_coco.py"

# mmdet keeps this model together with its data set and schedule; only the model is wanted.
for key in [key for key in _base_ if key != "model"]:
    del _base_[key]
del key

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
