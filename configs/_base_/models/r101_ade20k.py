"""``r101_ade20k``: ResNet-101 (V1c) and ADE20K's 150 classes, for segmentors of mmseg."""

r101_ade20k = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained="open-mmlab://resnet101_v1c",
    backbone=dict(depth=101),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
