"""UperNet with a very small Swin, from scratch on label maps of your own.

Without own_data it trains on the generated shapes. What it learns of 18 photos is in
docs/results.md.

swin-dense train my_data.py
"""

_base_ = [
    "./_base_/models/upernet.py",
    "./_base_/backbones/swin_nano.py",
    "./_base_/datasets/shapes_semantic.py",
    "./_base_/schedules/nano_segmentation.py",
    "./_base_/mmseg_runtime.py",
]

# Images are 384 pixels long; training sees crops of them.
scale, crop = (384, 384), (256, 256)
# Batch statistics of a single process: works without a process group.
norm_cfg = dict(type="BN", requires_grad=True)
head = dict(channels=64, dropout_ratio=0.0, num_classes=5, norm_cfg=norm_cfg)

model = dict(
    data_preprocessor=dict(size=crop),
    backbone=_base_.pop("backbone"),
    decode_head=dict(head, in_channels=_base_.channels),
    auxiliary_head=dict(head, in_channels=_base_.pop("channels")[2]),
)
del head  # a config has no such key

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop, cat_max_ratio=0.9),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations"),  # at the size of the file
    dict(type="PackSegInputs"),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(val_interval=100)
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(interval=100))
