"""The authors' code: classification, detection, segmentation, SimMIM, MoBY; timm until 0.8."""

from math import isqrt

from swin_dense.checkpoints.layouts.base import ABSOLUTE, Layout, State

ANCHOR = r"layers[._]0\.blocks\.0\.attn\.qkv\.weight"

# Shared with timm.
BLOCKS = (
    ("stages.{i}.blocks.{j}.attn.w_msa.*", "layers.{i}.blocks.{j}.attn.*"),
    ("stages.{i}.blocks.{j}.ffn.layers.0.0.*", "layers.{i}.blocks.{j}.mlp.fc1.*"),
    ("stages.{i}.blocks.{j}.ffn.layers.1.*", "layers.{i}.blocks.{j}.mlp.fc2.*"),
    ("patch_embed.projection.*", "patch_embed.proj.*"),
)


def _embedding_as_map(state: State) -> State:
    """Models with output norms, for detection and segmentation, store it as (1, C, h, w)."""
    if ABSOLUTE in state and "norm0.weight" in state:
        embed = state[ABSOLUTE].transpose(1, 2)
        side = isqrt(embed.shape[2])
        if side**2 == embed.shape[2]:
            return state | {ABSOLUTE: embed.unflatten(2, (side, side)).contiguous()}
    return state


OFFICIAL = Layout(
    name="official",
    anchor=ANCHOR,
    table=(*BLOCKS, ("stages.{i}.*", "layers.{i}.*"), ("head.fc.*", "head.*")),
    stored_index="square",
    split=_embedding_as_map,
    has_detectors=True,
    wrapper="model",
)
