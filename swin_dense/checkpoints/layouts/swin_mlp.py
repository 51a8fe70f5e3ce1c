"""Swin-MLP: the authors' names, and those of the backbone here, which are like OpenMMLab's Swin."""

from swin_dense.checkpoints.layouts.base import Layout

_BLOCK = "stages.{i}.blocks.{j}."
_MIXER = "attn.w_msa.spatial_mlp"

OPENMMLAB = Layout(
    name="openmmlab",
    anchor=r"stages\.0\.blocks\.0\.attn\.w_msa\.spatial_mlp\.weight",
    table=(),
    unfold_order=True,
    has_detectors=True,
)

OFFICIAL = Layout(
    name="official",
    anchor=r"layers\.0\.blocks\.0\.spatial_mlp\.weight",
    table=(
        (f"{_BLOCK}{_MIXER}.*", "layers.{i}.blocks.{j}.spatial_mlp.*"),
        (_BLOCK + "ffn.layers.0.0.*", "layers.{i}.blocks.{j}.mlp.fc1.*"),
        (_BLOCK + "ffn.layers.1.*", "layers.{i}.blocks.{j}.mlp.fc2.*"),
        ("patch_embed.projection.*", "patch_embed.proj.*"),
        ("stages.{i}.*", "layers.{i}.*"),
        ("head.fc.*", "head.*"),
    ),
    has_detectors=True,
    wrapper="model",
)

BY_NAME = {one.name: one for one in (OPENMMLAB, OFFICIAL)}
