"""OCRNet, HRNet-w48, 512: mIoU 45.7 ms+flip, 71 M, 664 G (Swin, Table 3).

torchrun --nproc-per-node 8 tools/train.py configs/ocrnet_hrnet_w48_ade20k.py --launcher pytorch
"""

_base_ = [
    "mmseg::_base_/models/ocrnet_hr18.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k_sgd.py",
    "./_base_/mmseg_runtime.py",
]

channels = [48, 96, 192, 384]
heads = [dict(head, in_channels=channels, num_classes=150) for head in _base_.model.decode_head]
heads[0]["channels"] = sum(channels)  # the FCN head of the initial segmentation

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained="open-mmlab://msra/hrnetv2_w48",
    backbone=dict(
        extra=dict(
            stage2=dict(num_channels=channels[:2]),
            stage3=dict(num_channels=channels[:3]),
            stage4=dict(num_channels=channels),
        )
    ),
    decode_head=heads,
)
