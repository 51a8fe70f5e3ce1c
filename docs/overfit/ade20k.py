"""UperNet Swin-T on four ADE20K images, small, to see that it learns them."""

_base_ = ["../../configs/upernet_swin_t_ade20k.py"]

size = (96, 96)
load = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=size, keep_ratio=False)]
annotations = [dict(type="LoadAnnotations", reduce_zero_label=True)]
train_pipeline = [load[0], *annotations, load[1], dict(type="PackSegInputs")]
test_pipeline = [*load, *annotations, dict(type="PackSegInputs")]

iters = 120
images = dict(img_path="images/training", seg_map_path="annotations/training")
train_dataloader = dict(batch_size=4, dataset=dict(indices=4, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(indices=4, data_prefix=images, pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(data_preprocessor=dict(size=size), backbone=dict(drop_path_rate=0.0))
optim_wrapper = dict(optimizer=dict(lr=3e-4))
train_cfg = dict(max_iters=iters, val_interval=iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=20, end=iters, by_epoch=False),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=iters))
