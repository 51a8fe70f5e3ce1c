"""Weights in other layouts and sizes, whoever loads them."""

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_checkpoint as mmengine_load
from torch import nn

from swin_dense import SwinTransformer
from swin_dense.checkpoints import (
    OFFICIAL,
    OPENMMLAB,
    find_backbone,
    load_backbone,
    resize_absolute_pos_embed,
    resize_bias_table,
    unwrap,
)
from swin_dense.errors import UserError

SMALL = {"embed_dims": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 3}
INDEX = "relative_position_index"


def random_model(**kwargs):
    model = SwinTransformer(**(SMALL | kwargs)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def same_parameters(a, b):
    return all(torch.equal(p, b.get_parameter(n)) for n, p in a.named_parameters())


class Detector(BaseModule):
    """A model with a Swin backbone under the usual name."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = SwinTransformer(**(SMALL | kwargs))
        self.head = nn.Linear(2, 2)


def as_released(model):
    """A state dict like the authors' releases: official keys, masks, classifier head."""
    state = OFFICIAL.from_openmmlab(model.state_dict())
    state = {k: v for k, v in state.items() if not k.startswith("norm")}
    state["layers.0.blocks.0.attn_mask"] = torch.zeros(4, 9, 9)
    return state | {"norm.weight": torch.ones(64), "head.weight": torch.ones(10, 64)}


def test_layouts_round_trip():
    state = random_model(use_abs_pos_embed=True).state_dict()
    official = OFFICIAL.from_openmmlab(state)
    assert find_backbone(state).layout.name == "openmmlab"
    assert find_backbone(official).layout.name == "official"
    assert find_backbone({"conv1.weight": torch.zeros(1)}) is None
    back = OPENMMLAB.from_openmmlab(OFFICIAL.to_openmmlab(official))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)


def test_merging_follows_the_official_channel_order():
    """The official code joins four strided slices; the converted weights must agree with that."""
    model = random_model()
    merging = model.stages[0].downsample
    official = OFFICIAL.from_openmmlab(model.state_dict())
    x = torch.randn(1, 6, 4, 8)
    slices = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    joined = torch.cat(slices, -1)
    weight, bias = (official[f"layers.0.downsample.norm.{n}"] for n in ("weight", "bias"))
    expected = nn.functional.layer_norm(joined, (32,), weight, bias)
    expected = expected @ official["layers.0.downsample.reduction.weight"].T
    torch.testing.assert_close(merging(x), expected)


WRAPPED = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 3},
    "state_dict": lambda s: {"state_dict": s, "meta": {}},
    "data parallel": lambda s: {"state_dict": {"module." + k: v for k, v in s.items()}},
    "detector": lambda s: {
        "state_dict": {"backbone." + k: v for k, v in s.items()} | {"neck.w": torch.ones(1)}
    },
}


@pytest.mark.parametrize("layout", [lambda s: s, OFFICIAL.from_openmmlab], ids=["ours", "official"])
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_init_cfg_finds_the_backbone_in_any_wrapping(tmp_path, wrapping, layout):
    source = random_model()
    torch.save(WRAPPED[wrapping](dict(layout(source.state_dict()))), tmp_path / "w.pth")
    model = SwinTransformer(
        **SMALL, init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")}
    )
    model.init_weights()
    assert same_parameters(source, model)


def test_released_classifier_loads_and_is_reported():
    source = random_model()
    model = random_model()
    report = load_backbone(model, {"model": as_released(source)}, "swin.pth")
    assert report.layout == "official"
    assert report.missing == [f"norm{i}.{n}" for i in range(4) for n in ("weight", "bias")]
    assert report.unexpected == ["norm.weight", "head.fc.weight"]
    assert not report.resized
    assert len(report.loaded) == len(list(model.parameters())) - 8
    text = str(report)
    assert "swin.pth (official layout)" in text
    assert "missing (8): norm0.weight" in text


@pytest.mark.parametrize("loader", ["torch", "mmengine"])
def test_a_detector_takes_either_layout(tmp_path, loader):
    source, target = Detector(), Detector()
    state = {"head." + k: v for k, v in source.head.state_dict().items()}
    official = OFFICIAL.from_openmmlab(source.backbone.state_dict())
    state |= {"backbone." + k: v for k, v in official.items()}
    if loader == "torch":
        target.load_state_dict(state, strict=True)
    else:
        torch.save({"state_dict": state}, tmp_path / "detector.pth")
        mmengine_load(target, str(tmp_path / "detector.pth"), map_location="cpu", strict=True)
    assert same_parameters(source, target)
    assert len(state) == len(source.state_dict())  # the caller's dict is left alone


def test_window_change_resizes_tables_and_nothing_else():
    source = random_model()
    model = random_model(window_size=5)
    report = load_backbone(model, source.state_dict(), "w")
    assert len(report.resized) == 5
    assert not report.missing
    for name, p in model.named_parameters():
        old = source.get_parameter(name)
        if name.endswith("table"):
            assert torch.equal(p, resize_bias_table(old, 81))
        else:
            assert torch.equal(p, old)
    # Through a plain load_state_dict too, index buffers included.
    other = random_model(window_size=5)
    other.load_state_dict(source.state_dict(), strict=True)
    assert same_parameters(other, model)
    assert other.state_dict()[f"stages.0.blocks.0.attn.w_msa.{INDEX}"].shape == (25, 25)


def test_resizing_a_table_keeps_a_smooth_bias():
    steps = torch.linspace(-1, 1, 13)
    smooth = (steps[:, None] ** 2 + 0.5 * steps[None]).reshape(-1, 1)
    finer = torch.linspace(-1, 1, 23)
    expected = (finer[:, None] ** 2 + 0.5 * finer[None]).reshape(-1, 1)
    # Bicubic samples at pixel centres: the ends lie half a step further in than the corners.
    assert (resize_bias_table(smooth, 23**2) - expected).abs().max() < 0.12
    assert torch.equal(resize_bias_table(smooth, 169), smooth)
    with pytest.raises(ValueError, match="rows"):
        resize_bias_table(smooth, 168)


@pytest.mark.parametrize("four_dims", [False, True])
def test_absolute_embedding_of_another_image_size(four_dims):
    source = random_model(use_abs_pos_embed=True, pretrain_img_size=32)
    state = source.state_dict()
    if four_dims:  # as the official detection code stores it
        state["absolute_pos_embed"] = (
            state["absolute_pos_embed"].view(1, 8, 8, 8).permute(0, 3, 1, 2)
        )
    same = random_model(use_abs_pos_embed=True, pretrain_img_size=32)
    same.load_state_dict(state)
    assert same_parameters(same, source)
    larger = random_model(use_abs_pos_embed=True, pretrain_img_size=(40, 48))
    report = load_backbone(larger, state, "w")
    assert report.resized == ["absolute_pos_embed"]
    expected = resize_absolute_pos_embed(source.absolute_pos_embed, (8, 8), (10, 12))
    assert torch.equal(larger.absolute_pos_embed, expected.reshape(1, 120, 8))


def test_weights_of_another_model_are_refused():
    model = random_model()
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(UserError, match=r"other.pth holds \d+% .*missing: patch_embed.projection"):
        load_backbone(model, random_model(embed_dims=16).state_dict(), "other.pth")
    with pytest.raises(UserError, match=r"holds 0% of .* \(unknown layout\)"):
        load_backbone(model, {"conv1.weight": torch.ones(3)}, "resnet.pth")
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_unwrap_keeps_only_tensors():
    state = {"a": torch.ones(1), "epoch": 3}
    assert list(unwrap(state)) == ["a"]
