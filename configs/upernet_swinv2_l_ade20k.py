"""UperNet, Swin V2-L (ImageNet-22K), windows of 40, 640: mIoU 55.9 ms+flip (Swin V2, Table 4).

The window of the last stage is not published: it is half the others', as in the authors' code for
depth, where maps of stage 4 are half as large too.

torchrun --nproc-per-node 8 tools/train.py configs/upernet_swinv2_l_ade20k.py --launcher pytorch
"""

_base_ = [
    "./_base_/models/upernet.py",
    "./_base_/backbones/swinv2_l_22k.py",
    "./_base_/datasets/ade20k_640.py",
    "./_base_/schedules/ade20k_40k_v2.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(_base_.pop("backbone"), window_size=(40, 40, 40, 20), drop_path_rate=0.3),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.pop("channels")[2]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.pop("no_decay")))
