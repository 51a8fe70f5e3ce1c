"""Cascade Mask R-CNN Swin-T on four COCO images, small, to see that it learns them."""

_base_ = ["../../configs/cascade_swin_t_coco.py"]

own_data = dict(
    root="data/overfit_coco",
    train=dict(ann_file="subset.json", img_dir="train2017"),
    val=dict(ann_file="subset.json", img_dir="train2017"),
)

load = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(160, 160), keep_ratio=True)]
train_pipeline = [
    load[0],
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    load[1],
    dict(type="PackDetInputs"),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_pipeline = [
    *load,
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
val_dataloader = dict(batch_size=4, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader

# One object per image needs few regions; on a CPU the box heads would take most of the time.
model = dict(
    backbone=dict(drop_path_rate=0.0),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50)),
)
epochs = 140  # of one step
optim_wrapper = dict(optimizer=dict(lr=3e-4))
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(interval=epochs))
