"""UperNet with a very small Swin, from scratch on label maps of your own.

Without own_data it trains on the generated shapes. What it learns of 18 photos is in
docs/results.md.

swin-dense train my_data.py
"""

_base_ = [
    "./_base_/models/upernet.py",
    "./_base_/backbones/swin_nano.py",
    "./_base_/datasets/shapes_semantic.py",
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

iterations = 600
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", T_max=iterations, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=100)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=5, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=100),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
