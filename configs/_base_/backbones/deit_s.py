"""DeiT-S with a deconvolution pyramid, ImageNet-1K weights."""

backbone = dict(
    _delete_=True,
    type="swin_dense.DeiT",
    drop_path_rate=0.2,
    norm_cfg=dict(type="SyncBN", requires_grad=True),
    init_cfg=dict(
        type="Pretrained",
        checkpoint="https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
    ),
)
channels = [384, 384, 384, 384]
