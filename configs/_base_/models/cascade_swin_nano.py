"""Cascade Mask R-CNN with a very small Swin, for the generated shapes."""

_base_ = ["./cascade_mask_rcnn.py", "../backbones/swin_nano.py"]

width = 32  # channels of the FPN and of every head; 256 in the paper
# Shapes are about 25 to 55 pixels wide: with the usual finest_scale=56 all of them would use the
# finest feature map. One sample per bin, and 7 x 7 bins for masks too, halve the time of a step.
roi_extractor = dict(
    out_channels=width, finest_scale=28, roi_layer=dict(output_size=7, sampling_ratio=1)
)
head = dict(in_channels=width, conv_out_channels=width, num_classes=4, norm_cfg=dict(type="BN"))

model = dict(
    backbone=dict(_base_.pop("backbone"), window_size=4),
    neck=dict(
        in_channels=_base_.pop("channels"),
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
                stage,
                **head,
                num_shared_convs=1,
                fc_out_channels=128,
                reg_class_agnostic=True,
                bbox_coder=dict(stage.bbox_coder, target_stds=[std, std, 2 * std, 2 * std]),
            )
            for stage, std in zip(_base_.model.roi_head.bbox_head, (0.1, 0.05, 0.033), strict=True)
        ],
        mask_roi_extractor=roi_extractor,
        mask_head=dict(head, num_convs=1),
    ),
    # Up to four shapes per image need fewer proposals and samples than COCO's crowds.
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=16, pos_fraction=0.5), mask_size=14)
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(max_per_img=30)),
)
del head  # a config has no such key
