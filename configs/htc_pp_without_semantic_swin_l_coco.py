"""HTC++ without its semantic branch, Swin-L, 3x: needs no COCO-stuff label maps."""

_base_ = [
    "./_base_/models/htc_pp_swin.py",
    "./_base_/datasets/coco_htc_pp_without_semantic.py",
    "./_base_/schedules/coco_3x.py",
    "./_base_/mmdet_runtime.py",
]

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window7_224_22k.pth"

model = dict(
    backbone=dict(arch="large", init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[192, 384, 768, 1536]),
    data_preprocessor=dict(pad_seg=False),
    roi_head=dict(semantic_roi_extractor=None, semantic_head=None),
)
