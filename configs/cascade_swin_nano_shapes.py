"""Cascade Mask R-CNN with a very small Swin, from scratch on the generated shapes: the demo.

Box AP50 0.92, mask AP50 0.91; 3 minutes, data and pictures included, on two cores of an AMD EPYC.
"""

_base_ = ["./_base_/models/cascade_mask_rcnn.py", "./_base_/mmdet_runtime.py"]

data_root = "data/shapes/"
metainfo = dict(
    classes=("circle", "square", "triangle", "star"),
    palette=[(230, 60, 60), (60, 180, 75), (60, 110, 230), (240, 190, 30)],
)

embed_dims = 32
width = 32  # channels of the FPN and of every head; 256 in the paper
# Shapes are about 25 to 55 pixels wide. With the usual finest_scale=56 all would come from the finest
# map; sampling once per bin and 7 x 7 for masks too save half of the time of a training step.
roi_extractor = dict(
    out_channels=width, finest_scale=28, roi_layer=dict(output_size=7, sampling_ratio=1)
)

model = dict(
    backbone=dict(
        _delete_=True,
        type="swin_dense.SwinTransformer",
        embed_dims=embed_dims,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        window_size=4,
        drop_path_rate=0.0,
    ),
    neck=dict(
        in_channels=[embed_dims * 2**stage for stage in range(4)],
        out_channels=width,
        norm_cfg=dict(type="BN"),
        num_outs=4,
    ),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        bbox_head=[
            dict(
                type="ConvFCBBoxHead",
                num_shared_convs=1,
                num_shared_fcs=1,
                in_channels=width,
                conv_out_channels=width,
                fc_out_channels=128,
                roi_feat_size=7,
                num_classes=4,
                norm_cfg=dict(type="BN"),
                reg_class_agnostic=True,
                reg_decoded_bbox=True,
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder",
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[std, std, 2 * std, 2 * std],
                ),
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
            )
            for std in (0.1, 0.05, 0.033)
        ],
        mask_roi_extractor=roi_extractor,
        mask_head=dict(
            num_convs=1,
            in_channels=width,
            conv_out_channels=width,
            num_classes=4,
            norm_cfg=dict(type="BN"),
        ),
    ),
    # Up to four shapes per image need fewer proposals and samples than COCO's crowds.
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
        rcnn=[
            dict(
                assigner=dict(
                    type="MaxIoUAssigner",
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type="RandomSampler",
                    num=16,
                    pos_fraction=0.5,
                    neg_pos_ub=-1,
                    add_gt_as_proposals=True,
                ),
                mask_size=14,
                pos_weight=-1,
                debug=False,
            )
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(max_per_img=30)),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(96, 96), keep_ratio=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="swin_dense.CocoMetric",
    ann_file=data_root + "annotations/instances_val2017.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator

epochs = 2
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=epochs)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
# One evaluation, one checkpoint: nothing to choose the best from.
default_hooks = dict(checkpoint=dict(interval=epochs, save_best=None), logger=dict(interval=25))
randomness = dict(seed=0)  # the same demo for everyone, but for rounding
