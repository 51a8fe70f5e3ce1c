"""COCO 2017 boxes and masks, with the multi-scale and crop augmentation of the Swin recipe."""

_base_ = "mmdet::_base_/datasets/coco_instance.py"

short_sides = [(short, 1333) for short in range(480, 801, 32)]

# Half of the images are only resized; the other half are resized to a smaller scale, cropped and
# resized again, so that objects appear larger (as in DETR).
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="swin_dense.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="swin_dense.RandomFlip", prob=0.5),
    dict(
        type="RandomChoice",
        transforms=[
            [dict(type="RandomChoiceResize", scales=short_sides, keep_ratio=True)],
            [
                dict(
                    type="RandomChoiceResize",
                    scales=[(400, 1333), (500, 1333), (600, 1333)],
                    keep_ratio=True,
                ),
                dict(
                    type="RandomCrop",
                    crop_type="absolute_range",
                    crop_size=(384, 600),
                    allow_negative_crop=True,
                ),
                dict(type="RandomChoiceResize", scales=short_sides, keep_ratio=True),
            ],
        ],
    ),
    dict(type="swin_dense.PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

test_pipeline = _base_.test_pipeline
test_pipeline[2]["type"] = "swin_dense.LoadAnnotations"
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# AP and AR over at most 1, 10 and 100 detections of an image, as cocodataset.org defines them.
val_evaluator = dict(type="swin_dense.CocoMetric")
test_evaluator = val_evaluator

# mmdet's own DetTTAModel merges boxes only.
tta_model = dict(
    type="swin_dense.InstanceTTAModel",
    tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
)
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=scale, keep_ratio=True)
                for scale in [(1333, 640), (1333, 800), (1600, 960)]
            ],
            [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)],
            [
                dict(
                    type="PackDetInputs",
                    meta_keys=(
                        "img_id",
                        "img_path",
                        "ori_shape",
                        "img_shape",
                        "scale_factor",
                        "flip",
                        "flip_direction",
                    ),
                )
            ],
        ],
    ),
]
