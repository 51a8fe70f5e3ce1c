"""``box_heads``: the three 4conv1fc heads, trained with GIoU, that refine a cascade's boxes."""

# Each stage refines better boxes than the one before, so its regression targets are smaller.
target_stds_of_stages = [
    [0.1, 0.1, 0.2, 0.2],
    [0.05, 0.05, 0.1, 0.1],
    [0.033, 0.033, 0.067, 0.067],
]

box_heads = [
    dict(
        type="ConvFCBBoxHead",
        num_shared_convs=4,
        num_shared_fcs=1,
        in_channels=256,
        conv_out_channels=256,
        fc_out_channels=1024,
        roi_feat_size=7,
        num_classes=80,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        reg_class_agnostic=False,
        reg_decoded_bbox=True,
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=target_stds,
        ),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
    )
    for target_stds in target_stds_of_stages
]
