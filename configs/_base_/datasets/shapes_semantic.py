"""The generated shapes of ``tools/make_shapes.py``: label maps of four classes and background."""

data_root = "data/shapes/"
metainfo = dict(
    classes=("background", "circle", "square", "triangle", "star"),
    palette=[(0, 0, 0), (230, 60, 60), (60, 180, 75), (60, 110, 230), (240, 190, 30)],
)

load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
train_pipeline = [*load, dict(type="RandomFlip", prob=0.5), dict(type="PackSegInputs")]
test_pipeline = [*load, dict(type="PackSegInputs")]

dataset = dict(type="BaseSegDataset", data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="train2017", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        dataset,
        data_prefix=dict(img_path="val2017", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
del load, dataset  # a config has no such keys
