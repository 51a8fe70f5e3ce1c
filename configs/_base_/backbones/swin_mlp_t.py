"""Swin-MLP-T with 24 channels a head, ImageNet-1K weights of 256 pixels and windows of 8.

``backbone`` and ``channels`` as in ``swin_t.py``. No recipe of ours uses it: nobody has published a
detector or segmentor with Swin-MLP.
"""

pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.5/swin_mlp_tiny_c24_patch4_window8_256.pth"

backbone = dict(
    _delete_=True,
    type="swin_dense.SwinMLP",
    arch="tiny_c24",
    drop_path_rate=0.2,
    init_cfg=dict(type="Pretrained", checkpoint=pretrained),
)
channels = [96, 192, 384, 768]
