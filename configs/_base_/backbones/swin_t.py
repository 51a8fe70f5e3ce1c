"""Swin-T, ImageNet-1K weights.

``backbone`` replaces the one that a method comes with; ``channels`` are those of its four feature
maps, which necks and heads need. A config takes both with ``_base_.pop``, so that neither stays.
"""

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth"

backbone = dict(
    _delete_=True,
    type="swin_dense.SwinTransformer",
    arch="tiny",
    init_cfg=dict(type="Pretrained", checkpoint=pretrained),
)
channels = [96, 192, 384, 768]
