"""The detector of HTC++ on a Swin backbone with global self-attention after its last stage."""

_base_ = "./htc_pp.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="swin_dense.SwinTransformer",
        arch="base",
        drop_path_rate=0.2,
        global_attention=True,
        init_cfg=dict(type="Pretrained", checkpoint=None),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
