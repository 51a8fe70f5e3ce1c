"""COCO 2017 boxes of 10 % of the training images, the first fold; the others have no labels.

mmdet's ``tools/misc/split_coco.py`` writes both annotation files. One image of five in a batch has
labels; the pipelines are mmdet's: the teacher sees weak changes of an image, the student strong
ones.
"""

_base_ = "mmdet::_base_/datasets/semi_coco_detection.py"

labeled_dataset = _base_.labeled_dataset
labeled_dataset["ann_file"] = "semi_anns/instances_train2017.1@10.json"
unlabeled_dataset = _base_.unlabeled_dataset
unlabeled_dataset["ann_file"] = "semi_anns/instances_train2017.1@10-unlabeled.json"
unlabeled_dataset["data_prefix"] = dict(img="train2017/")
train_dataloader = dict(dataset=dict(datasets=[labeled_dataset, unlabeled_dataset]))

# mmdet's has no annotations in it; pictures of a test show the ground truth.
load, resize, pack = _base_.test_pipeline
test_pipeline = [load, resize, dict(type="LoadAnnotations", with_bbox=True), pack]
del load, resize, pack
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# AP and AR over at most 1, 10 and 100 detections of an image, as cocodataset.org defines them.
val_evaluator = dict(type="swin_dense.CocoMetric")
test_evaluator = val_evaluator
