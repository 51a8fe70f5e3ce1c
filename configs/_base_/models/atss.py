"""ATSS with ResNet-50, as installed with mmdet."""

_base_ = "mmdet::atss/atss_r50_fpn_1x_coco.py"

# mmdet has this model in one file with its data set and schedule; keep the model alone.
for key in [key for key in _base_ if key != "model"]:
    del _base_[key]
del key
