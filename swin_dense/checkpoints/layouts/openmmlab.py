"""OpenMMLab: mmdet, mmseg, mmcls and mmpretrain, and this package; all others convert to it."""

from swin_dense.checkpoints.layouts.base import Layout

OPENMMLAB = Layout(
    name="openmmlab",
    anchor=r"stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight",
    table=(),
    unfold_order=True,
    stored_index="square",
    has_detectors=True,
)
