"""RepPoints V2 with ResNet-50 and a bidirectional feature pyramid."""

_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

model = dict(
    type="RepPointsDetector",
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(
        _delete_=True,
        type="swin_dense.BiFPN",
        in_channels=[512, 1024, 2048],
        out_channels=256,
        num_outs=5,
        num_repeat=2,
        norm_cfg=dict(type="GN", num_groups=32),
    ),
    bbox_head=dict(
        _delete_=True,
        type="swin_dense.RepPointsV2Head",
        num_classes=80,
        loss_cls=dict(type="QualityFocalLoss", beta=2.0, loss_weight=1.0),
        loss_bbox_init=dict(type="swin_dense.InclusiveGIoULoss", loss_weight=1.0),
        loss_bbox_refine=dict(type="swin_dense.InclusiveGIoULoss", loss_weight=2.0),
        loss_heatmap=dict(type="GaussianFocalLoss", alpha=2.0, gamma=4.0, loss_weight=0.25),
        loss_offset=dict(type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0),
        loss_sem=dict(type="swin_dense.SeparateFocalLoss", gamma=2.0, alpha=0.25, loss_weight=0.1),
    ),
    train_cfg=dict(_delete_=True, topk=9, gaussian_iou=0.7),
    test_cfg=dict(
        _delete_=True,
        nms_pre=1000,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.6),
        max_per_img=100,
    ),
)
