"""COCO 2017 boxes and masks with HTC++'s augmentation: InstaBoost, short side 400 to 1400."""

_base_ = "./coco_instance.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="swin_dense.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="swin_dense.InstaBoost", prob=0.5, color_prob=0.5),
    dict(type="RandomResize", scale=[(1600, 400), (1600, 1400)], keep_ratio=True),
    dict(type="swin_dense.RandomFlip", prob=0.5),
    dict(type="swin_dense.PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# Published: that one scale is tested, or several. Which, is not: these are those of HTC in CBNetV2
# (arXiv 2107.00420), which trains with the same scales as HTC++.
test_pipeline = _base_.test_pipeline
test_pipeline[1] = dict(type="Resize", scale=(1600, 1400), keep_ratio=True)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_model = dict(tta_cfg=dict(nms=dict(type="soft_nms", iou_threshold=0.5, min_score=0.001)))
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]["transforms"][0] = [
    dict(type="Resize", scale=scale, keep_ratio=True)
    for scale in [(1600, 1000), (1600, 1400), (1800, 1200), (1800, 1600)]
]
