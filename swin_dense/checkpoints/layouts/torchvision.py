"""torchvision: one sequence of layers, stages at odd indices, patch merging at even ones."""

from swin_dense.checkpoints.layouts.base import Layout

_BLOCK = "features.{2i+1}.{j}"

TORCHVISION = Layout(
    name="torchvision",
    anchor=r"features\.1\.0\.attn\.qkv\.weight",
    table=(
        ("patch_embed.projection.*", "features.0.0.*"),
        ("patch_embed.norm.*", "features.0.2.*"),
        ("stages.{i}.blocks.{j}.attn.w_msa.*", f"{_BLOCK}.attn.*"),
        ("stages.{i}.blocks.{j}.ffn.layers.0.0.*", f"{_BLOCK}.mlp.0.*"),
        ("stages.{i}.blocks.{j}.ffn.layers.1.*", f"{_BLOCK}.mlp.3.*"),
        ("stages.{i}.blocks.{j}.*", f"{_BLOCK}.*"),
        ("stages.{i}.downsample.*", "features.{2i+2}.*"),
        ("head.fc.*", "head.*"),
    ),
    stored_index="flat",
    classification_only=True,
)
