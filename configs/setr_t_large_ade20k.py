"""SETR-MLA, T-Large (ImageNet-22K), 512: mIoU 50.3 ms+flip, 308 M (Swin, Table 3).

Of SETR's three decoders, MLA is the one with this score in its paper; it counts 309.6 M (naive
305.6 M, PUP 317.3 M). mmseg's converter ``vit2mmseg.py`` makes the weights from timm's
``jx_vit_large_p16_384-b3be5167.pth``.

torchrun --nproc-per-node 8 tools/train.py configs/setr_t_large_ade20k.py --launcher pytorch
"""

_base_ = [
    "mmseg::_base_/models/setr_mla.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k_sgd.py",
    "./_base_/mmseg_runtime.py",
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(
        img_size=(512, 512),
        drop_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/vit_large_p16.pth"),
    ),
    decode_head=dict(num_classes=150),
    auxiliary_head=[dict(head, num_classes=150) for head in _base_.model.auxiliary_head],
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(
    optimizer=dict(lr=0.001, weight_decay=0.0),
    paramwise_cfg=dict(custom_keys={"head": dict(lr_mult=10.0)}),
)
