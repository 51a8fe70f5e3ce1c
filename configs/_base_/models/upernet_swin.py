"""UperNet with an auxiliary FCN head on stage 3, on a Swin backbone, for ADE20K's 150 classes."""

_base_ = "mmseg::_base_/models/upernet_swin.py"

model = dict(
    data_preprocessor=dict(size=(512, 512)),  # crops smaller than this are padded in training
    backbone=dict(
        _delete_=True,
        type="swin_dense.SwinTransformer",
        arch="tiny",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint=None),
    ),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
