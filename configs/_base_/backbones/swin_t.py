"""Swin-T, ImageNet-1K weights.

``backbone`` replaces the backbone of a method's model; ``channels`` are those of its four feature
maps, for the ``in_channels`` of necks and heads. A config reads both with ``_base_.pop``, so that
they do not become keys of the config.
"""

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth"

backbone = dict(
    _delete_=True,
    type="swin_dense.SwinTransformer",
    arch="tiny",
    drop_path_rate=0.2,  # most detectors; segmentors use 0.3
    init_cfg=dict(type="Pretrained", checkpoint=pretrained),
)
channels = [96, 192, 384, 768]
