"""Multiply-accumulates: of single layers by hand, and of whole models as published."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torchvision.ops import DeformConv2d

from swin_dense.analysis import Counts, count_config
from swin_dense.analysis.counting import build_on_meta, count_model
from swin_dense.backbones import SwinTransformer
from swin_dense.ops.dispatch import without_autocast

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def count(build, size=(8, 12)) -> Counts:
    with torch.device("meta"):
        model = build()
    return count_model(model.eval(), lambda model, image: model(image), size)


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (lambda: nn.Conv2d(3, 16, 3, stride=2, padding=1), 16 * 4 * 6 * 3 * 9),
        (lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3), 6 * 8 * 12 * 9),
        # Every input position is multiplied with the whole kernel.
        (lambda: nn.ConvTranspose2d(3, 5, 2, stride=2), 8 * 12 * 3 * 5 * 4),
        (lambda: nn.Linear(12, 7), 3 * 8 * 12 * 7),
        (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.GELU(), nn.Upsample(scale_factor=2)), 0),
    ],
)
def test_layers(layer, macs):
    assert count(layer).macs == macs


def test_deformable_convolution_counts_like_a_convolution():
    """In full precision, which models use for it under mixed precision."""

    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DeformConv2d(3, 10, 3, padding=1)

        def forward(self, x):
            with without_autocast(x):
                return self.conv(x, x.new_zeros(1, 18, *x.shape[2:]))

    counts = count(Deformed)
    assert counts.macs == 10 * 8 * 12 * 3 * 9
    assert counts.outside_layers_of["conv"] == 0


class Attention(nn.Module):
    """Self-attention of 96 tokens of 3 channels, without layers."""

    def __init__(self, attend):
        super().__init__()
        self.attend = attend

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.attend(tokens)


@pytest.mark.parametrize(
    "attend",
    [
        lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x,
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x),
        lambda x: nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
        lambda x: torch.einsum("bij,bjc->bic", torch.einsum("bic,bjc->bij", x, x), x),
    ],
)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_attention_counts_outside_layers(attend, device):
    counts = count_model(
        nn.Sequential(Attention(attend)).to(device), lambda model, image: model(image), (8, 12)
    )
    assert counts.macs == counts.outside_layers_of["0"] == 2 * 96 * 96 * 3


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
@pytest.mark.parametrize("project_padding", [True, False])
def test_shifted_windows_with_padding(impl, project_padding):
    channels, window, (rows, columns) = 8, 4, (7, 10)
    cfg = Config(
        {
            "default_scope": "mmdet",
            "model": {
                "type": "swin_dense.SwinTransformer",
                "embed_dims": channels,
                "depths": (2,),
                "num_heads": (2,),
                "strides": (4,),
                "out_indices": (0,),
                "window_size": window,
                "attn_impl": impl,
            },
        }
    )
    counts = count_config(
        cfg, (4 * rows, 4 * columns), project_padding=project_padding, forward=lambda m, x: m(x)
    )
    tokens, padded = rows * columns, 8 * 12
    embedding = tokens * 3 * 16 * channels
    attention = 2 * padded * window**2 * channels
    projections = (padded if project_padding else tokens) * 4 * channels**2
    mlp = tokens * 8 * channels**2
    assert counts.macs == embedding + 2 * (attention + projections + mlp)
    assert counts.outside_layers_of["stages.0.blocks.1.attn.w_msa"] == attention
    assert counts.macs_of["stages.0"] == counts.macs - embedding


def test_counting_allocates_nothing():
    """An image of a petabyte would fit in no memory."""
    side = 2**23
    assert count(lambda: nn.Conv2d(3, 1, 1), (side, side)).macs == 3 * side**2


def test_parameters_by_module():
    counts = count(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Linear(12, 2))))
    assert counts.params == 16 + 26
    assert counts.params_of == {"0": 16, "1": 26, "1.0": 26}
    assert counts.macs_of["1"] == 4 * 8 * 12 * 2
    assert "0: 0.00 M" in counts.report()


def test_models_are_built_without_memory():
    cfg = Config({"default_scope": "mmdet", "model": {"type": "swin_dense.SwinTransformer"}})
    model = build_on_meta(cfg)
    assert isinstance(model, SwinTransformer)
    assert not model.training
    assert all(p.is_meta and not p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("cascade_swin_t_coco", "cascade_swin_t"),
        ("atss_swin_t_coco", "atss_swin_t"),
        ("upernet_swin_t_ade20k", "upernet_swin_t (without auxiliary head flops)"),
        ("upernet_swin_b_ade20k", "upernet_swin_b_640"),
    ],
)
def test_whole_models_equal_an_independent_count(config, name, shared):
    tables = json.loads((shared / "paper" / "tables.json").read_text(encoding="utf-8"))
    params_m, flops_g = tables["counted_here"][name]
    counts = count_config(CONFIGS / f"{config}.py")
    # The reference numbers have one and two decimals.
    assert counts.params / 1e6 == pytest.approx(params_m, abs=0.005)
    assert counts.macs / 1e9 == pytest.approx(flops_g, abs=0.05)
