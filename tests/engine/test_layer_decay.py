"""Learning rates by layer, as in the fine-tuning of SimMIM."""

import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

from swin_dense import SwinTransformer, SwinTransformerV2
from swin_dense.errors import UserError

SIZES = {"embed_dims": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2)}
# How many layers lie above, of five blocks: get_swin_layer counts from below, 0 to 6.
ABOVE = {
    "patch_embed.projection.weight": 6,
    "stages.0.blocks.0.norm1.weight": 5,
    "stages.1.blocks.0.attn.w_msa.qkv.weight": 4,
    "stages.1.blocks.1.attn.w_msa.qkv.weight": 3,
    "stages.2.blocks.0.ffn.layers.1.weight": 2,
    "stages.3.blocks.0.norm2.bias": 1,
    "norm3.weight": 0,
}


class Model(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def rates(model: nn.Module, **options) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by name."""
    wrapper = build_optim_wrapper(
        model,
        {
            "constructor": "swin_dense.LayerDecayConstructor",
            "optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.5},
            "paramwise_cfg": {"norm_decay_mult": 0.0, **options},
        },
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    return {names[id(g["params"][0])]: (g["lr"], g["weight_decay"]) for g in groups}


@pytest.mark.parametrize(
    ("backbone", "merging"),
    [(SwinTransformer(**SIZES), "stages.0"), (SwinTransformerV2(SIZES, window_size=4), "stages.1")],
)
def test_learning_rates_fall_with_the_layers_above(backbone, merging):
    found = rates(Model(backbone), layer_decay=0.8, custom_keys={"head": {"lr_mult": 2.0}})
    assert len(found) == len(list(Model(backbone).parameters()))
    # Between the first block and the next: the first version has it in the stage below.
    for name, above in {**ABOVE, f"{merging}.downsample.reduction.weight": 5}.items():
        decay = 0.0 if "norm" in name else 0.5
        assert found[f"backbone.{name}"] == (pytest.approx(0.8**above), decay)
    assert found["head.weight"][0] == 2.0


@pytest.mark.parametrize("decay", [{}, {"layer_decay": 1.5}, {"layer_decay": "0.8"}])
def test_a_factor_is_needed(decay):
    with pytest.raises(UserError, match="give a factor above 0"):
        rates(Model(SwinTransformer(**SIZES)), **decay)


def test_a_swin_backbone_is_needed():
    with pytest.raises(UserError, match="has no Swin backbone"):
        rates(Model(nn.Linear(2, 2)), layer_decay=0.8)
