"""The detector of HTC++ with ResNet-50: HTC with its semantic branch, 4conv1fc heads, soft-NMS."""

_base_ = ["mmdet::htc/htc_r50_fpn_1x_coco.py", "./box_heads_4conv1fc.py"]

model = dict(
    roi_head=dict(
        # One box for all classes, as in HTC: then all three published sizes come out exactly.
        bbox_head=[{**head, "reg_class_agnostic": True} for head in _base_.box_heads],
        # Under AMP, mmdet's would round the corners of regions to 16 bits.
        bbox_roi_extractor=dict(type="swin_dense.SingleRoIExtractor"),
        mask_roi_extractor=dict(type="swin_dense.SingleRoIExtractor"),
        semantic_roi_extractor=dict(type="swin_dense.SingleRoIExtractor"),
    ),
    # Published: soft-NMS. Its settings are not: these are those of HTC in CBNetV2 (arXiv
    # 2107.00420), which follows HTC++. A higher min_score would cut off what score_thr lets in.
    test_cfg=dict(
        rcnn=dict(score_thr=0.001, nms=dict(type="soft_nms", iou_threshold=0.5, min_score=0.001))
    ),
)

# mmdet has this model in one file with its data set and schedule; keep the model alone.
for key in [key for key in _base_ if key != "model"]:
    del _base_[key]
del key
