"""Soft Teacher around Faster R-CNN with ResNet-50, with the thresholds of mmdet's config.

``model.detector`` is the student and, averaged over steps, the teacher.
"""

_base_ = "mmdet::_base_/models/faster-rcnn_r50_fpn.py"

detector = _base_.pop("model")
# Under AMP, mmdet's would round the corners of regions to 16 bits.
detector["roi_head"]["bbox_roi_extractor"]["type"] = "swin_dense.SingleRoIExtractor"

model = dict(
    type="swin_dense.SoftTeacher",
    detector=detector,
    data_preprocessor=dict(
        type="MultiBranchDataPreprocessor", data_preprocessor=detector["data_preprocessor"]
    ),
    semi_train_cfg=dict(
        freeze_teacher=True,
        sup_weight=1.0,
        unsup_weight=4.0,
        pseudo_label_initial_score_thr=0.5,
        rpn_pseudo_thr=0.9,
        cls_pseudo_thr=0.9,
        reg_pseudo_thr=0.02,
        jitter_times=10,
        jitter_scale=0.06,
        min_pseudo_bbox_wh=(1e-2, 1e-2),
    ),
    semi_test_cfg=dict(predict_on="teacher"),
)
del detector
