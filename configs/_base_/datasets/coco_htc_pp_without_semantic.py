"""COCO 2017 boxes and masks with HTC++'s augmentation: InstaBoost, short side 400 to 1400."""

_base_ = "./coco_instance.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="swin_dense.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="swin_dense.InstaBoost", prob=0.5),
    dict(type="RandomResize", scale=[(1600, 400), (1600, 1400)], keep_ratio=True),
    dict(type="swin_dense.RandomFlip", prob=0.5),
    dict(type="swin_dense.PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# The paper names no scales for its multi-scale testing: these are spread over those of training.
tta_model = dict(tta_cfg=dict(nms=dict(type="soft_nms", iou_threshold=0.5, min_score=0.05)))
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]["transforms"][0] = [
    dict(type="Resize", scale=(1600, short), keep_ratio=True) for short in range(400, 1401, 200)
]
