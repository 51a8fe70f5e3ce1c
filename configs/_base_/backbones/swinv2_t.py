"""Swin V2-T, ImageNet-1K weights of 256 pixels and windows of 8.

``backbone`` and ``channels`` as in ``swin_t.py``; ``no_decay`` are the ``custom_keys`` of what has
no weight decay in V2 only. The windows of pretraining are read from the weights, so ``window_size``
is free.
"""

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_tiny_patch4_window8_256.pth"

backbone = dict(
    _delete_=True,
    type="swin_dense.SwinTransformerV2",
    arch="tiny",
    window_size=8,
    drop_path_rate=0.2,  # segmentors use 0.3
    out_indices=(0, 1, 2, 3),
    init_cfg=dict(type="Pretrained", checkpoint=pretrained),
)
channels = [96, 192, 384, 768]
no_decay = dict(
    cpb_mlp=dict(decay_mult=0.0),
    logit_scale=dict(decay_mult=0.0),
    q_bias=dict(decay_mult=0.0),
    v_bias=dict(decay_mult=0.0),
)
