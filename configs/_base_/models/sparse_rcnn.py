"""Sparse R-CNN with ResNet-50 and 300 proposals, as installed with mmdet."""

_base_ = "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py"

# mmdet keeps this model together with its data set and schedule; only the model is wanted.
for key in [key for key in _base_ if key != "model"]:
    del _base_[key]
del key
