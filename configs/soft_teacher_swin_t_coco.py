"""Soft Teacher with Faster R-CNN, Swin-T, 10 % of COCO's labels: nothing is published for Swin-T.

Published with ResNet-50: box AP 34.7 (mmdet's config of that differs in backbone and optimizer).
Split the annotations first with mmdet's tools/misc/split_coco.py, into data/coco/semi_anns.

torchrun --nproc-per-node 8 tools/train.py configs/soft_teacher_swin_t_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/soft_teacher.py",
    "./_base_/backbones/swin_t.py",
    "./_base_/datasets/coco_semi_detection.py",
    "./_base_/schedules/coco_semi_180k.py",
    "./_base_/mmdet_runtime.py",
]

model = dict(
    detector=dict(
        backbone=_base_.pop("backbone"),
        neck=dict(in_channels=_base_.pop("channels")),
    )
)
log_processor = dict(by_epoch=False)
# Student and teacher are both evaluated; the teacher predicts.
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=10000, save_best="teacher/coco/bbox_mAP")
)
