"""The generated shapes of ``tools/make_shapes.py``: four classes with boxes and masks."""

data_root = "data/shapes/"
metainfo = dict(
    classes=("circle", "square", "triangle", "star"),
    palette=[(230, 60, 60), (60, 180, 75), (60, 110, 230), (240, 190, 30)],
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="swin_dense.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="swin_dense.RandomFlip", prob=0.5),
    dict(type="swin_dense.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(96, 96), keep_ratio=True),
    # At the size of the file, for pictures of what was to be found.
    dict(type="swin_dense.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]

dataset = dict(type="CocoDataset", data_root=data_root, metainfo=metainfo)
loader = dict(batch_size=8, num_workers=1, persistent_workers=True)
train_dataloader = dict(
    loader,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        dataset,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    loader,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        dataset,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="swin_dense.CocoMetric",
    ann_file=data_root + "annotations/instances_val2017.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator
del dataset, loader  # a config has no such keys
