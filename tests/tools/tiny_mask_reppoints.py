# ruff: noqa: C408 (a config, in the style of OpenMMLab)
"""Mask RepPoints V2 so small that an epoch takes seconds, on the data of `tiny_detector`."""

_base_ = "./tiny_detector.py"

width = 32
groups = dict(type="GN", num_groups=8)

model = dict(
    _delete_=True,
    type="RepPointsDetector",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_mask=True,
    ),
    backbone=dict(
        type="swin_dense.SwinTransformer",
        embed_dims=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=4,
        out_indices=(1, 2, 3),
    ),
    neck=dict(
        type="swin_dense.BiFPN",
        in_channels=[16, 32, 64],
        out_channels=width,
        num_repeat=1,
        norm_cfg=groups,
    ),
    bbox_head=dict(
        type="swin_dense.RepPointsV2Head",
        num_classes=4,
        in_channels=width,
        feat_channels=width,
        point_feat_channels=width,
        stacked_convs=1,
        corner_dim=8,
        norm_cfg=groups,
        mask_head=dict(
            type="swin_dense.ConditionalMaskHead", in_channels=width, channels=width, num_convs=1
        ),
    ),
    test_cfg=dict(
        nms_pre=50, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.6), max_per_img=10
    ),
)
