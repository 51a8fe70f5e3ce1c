"""Sparse R-CNN with ResNet-50 and 300 proposals, as installed with mmdet."""

_base_ = "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py"

# mmdet has this model in one file with its data set and schedule; keep the model alone.
for key in [key for key in _base_ if key != "model"]:
    del _base_[key]
del key

# Under AMP, mmdet's would round the corners of regions to 16 bits.
model = dict(roi_head=dict(bbox_roi_extractor=dict(type="swin_dense.SingleRoIExtractor")))
