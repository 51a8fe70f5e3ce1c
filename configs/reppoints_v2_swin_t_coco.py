"""RepPointsV2, Swin-T, 3x: box AP 50.0, 45 M, 283 G (Swin, Table 2a).

torchrun --nproc-per-node 8 tools/train.py configs/reppoints_v2_swin_t_coco.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/reppoints_v2.py",
    "./_base_/backbones/swin_t.py",
    "./_base_/datasets/coco_detection_960.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

# One-stage heads start at stride 8: an unused output at stride 4 would leave a norm without a
# gradient, which DistributedDataParallel refuses.
model = dict(
    backbone=dict(_base_.pop("backbone"), out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.pop("channels")[1:]),
)
