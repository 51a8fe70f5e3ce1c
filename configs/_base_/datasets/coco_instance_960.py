"""COCO 2017 boxes and masks, resized to any short side of 480..960 for training, never cropped."""

_base_ = "./coco_instance.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="swin_dense.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomResize", scale=[(1333, 480), (1333, 960)], keep_ratio=True),
    dict(type="swin_dense.RandomFlip", prob=0.5),
    dict(type="swin_dense.PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
