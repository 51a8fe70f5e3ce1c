"""UperNet with an auxiliary FCN head on stride 16, on DeiT-S, for ADE20K's 150 classes."""

_base_ = "./upernet_swin.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="swin_dense.DeiT",
        drop_path_rate=0.2,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
        ),
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
