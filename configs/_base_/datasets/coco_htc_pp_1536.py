"""COCO with HTC++'s augmentation in Swin V2: InstaBoost, scales of 0.1 to 2, crops of 1536."""

_base_ = "./coco_htc_pp.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="swin_dense.LoadAnnotations", with_bbox=True, with_mask=True, with_seg=True),
    dict(type="swin_dense.InstaBoost", prob=0.5, color_prob=0.5),
    dict(type="RandomResize", scale=(1536, 1536), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=(1536, 1536),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="swin_dense.RandomFlip", prob=0.5),
    dict(type="swin_dense.PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# The paper says 1100 pixels: of the short side, the long one in proportion to the usual 1333 x 800.
test_pipeline = _base_.test_pipeline
test_pipeline[1] = dict(type="Resize", scale=(1833, 1100), keep_ratio=True)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
