"""UperNet with an auxiliary FCN head on stage 3, for ADE20K's 150 classes."""

_base_ = "mmseg::_base_/models/upernet_swin.py"

model = dict(
    data_preprocessor=dict(size=(512, 512)),  # crops smaller than this are padded in training
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
