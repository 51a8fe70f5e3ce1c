"""Swin-MLP: the authors' outputs, maps of any size, and weights of its own window alone."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine import Config
from torch import nn
from torch.nn import functional as F

from swin_dense import SwinMLP, SwinTransformer, SwinTransformerV2
from swin_dense.analysis import count_config
from swin_dense.backbones.swin_mlp import ARCHS, SpatialMLP
from swin_dense.checkpoints import convert, load_backbone
from swin_dense.checkpoints.layouts import swin_mlp
from swin_dense.errors import UserError

ARCH = {"embed_dims": 8, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
SMALL = {"arch": ARCH, "out_indices": (0, 1), "drop_path_rate": 0.0}


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden_v2"
    if not folder.is_dir():
        pytest.skip(f"no outputs of the authors' Swin-MLP at {folder}")
    spec = importlib.util.spec_from_file_location("weights_mlp", folder / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    return weights, json.loads((folder / "swin_mlp.json").read_text())


def small_model(**options):
    torch.manual_seed(0)
    model = SwinMLP(**SMALL | options)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("mlp_t_c24_w8_256", torch.float64, 1e-10), ("mlp_n_c8_w8_512", torch.float32, 1e-5)],
)
def test_same_as_official(golden, name, dtype, tolerance):
    weights, case = golden[0], golden[1][name]
    kw = dict(case["case"]["kw"])
    model = SwinMLP(arch={"embed_dims": kw.pop("embed_dim")} | kw).to(dtype).eval()
    state = {key: value.to(dtype) for key, value in weights.make(case["keys"]).items()}
    assert not any(model.load_state_dict(state))
    x = weights.image(case["case"]).to(dtype).requires_grad_()
    outs = model(x)
    loss = 0
    for i in case["dense_maps"]:  # the classifier does not shift in a single window
        expected, out = case["outs"][i], outs[i]
        assert list(out.shape) == expected["shape"]
        exact = torch.tensor(expected["val"], dtype=torch.float64)
        assert (out.flatten()[expected["idx"]].double() - exact).abs().max() <= tolerance
        loss = loss + (out * weights.cotangent(i, out.shape).to(dtype)).mean()
    loss.backward()
    expected = case["grads" if len(case["dense_maps"]) == 4 else "grads_dense_maps"]
    rel = {torch.float64: 1e-7, torch.float32: 1e-4}[dtype]
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)
    assert x.grad.double().norm().item() == pytest.approx(expected["gx"], rel=rel)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = swin_mlp.OFFICIAL.from_openmmlab(found)
    assert expected["params"].keys() <= found.keys()
    for key, (norm, first) in expected["params"].items():
        gradient = found[key].double()
        assert gradient.norm().item() == pytest.approx(norm, rel=rel), key
        assert gradient.flatten()[:7].sum().item() == pytest.approx(first, abs=rel * norm), key


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(1, 1), (4, 8), (7, 5)])
def test_spatial_mlp_is_a_convolution_of_each_window(size, shift):
    """As the authors compute it: pad, cut into windows, a convolution with a group per head."""
    torch.manual_seed(0)
    m, heads, c, (h, w) = 4, 2, 6, size
    layer = SpatialMLP(heads, m, shift).double()
    x = torch.randn(2, h, w, c, dtype=torch.float64)
    whole = F.pad(x, (0, 0, 0, -w % m, 0, -h % m))
    before = m - shift if shift else 0
    padded = F.pad(whole, (0, 0, before, shift, before, shift))
    expected = torch.zeros_like(padded)
    for top in range(0, padded.shape[1], m):
        for left in range(0, padded.shape[2], m):
            window = padded[:, top : top + m, left : left + m].flatten(1, 2)
            by_head = window.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(1, 2)
            mixed = layer.spatial_mlp(by_head).unflatten(1, (heads, -1)).transpose(1, 2)
            expected[:, top : top + m, left : left + m] = mixed.flatten(2).unflatten(1, (m, m))
    expected = expected[:, before : before + h, before : before + w]
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (5, 130), (64, 33)])
def test_feature_maps_of_any_size(size):
    maps = small_model()(torch.zeros(2, 3, *size))
    strides = enumerate((4, 8))
    expected = [(2, 8 * 2**i, *(-(-side // stride) for side in size)) for i, stride in strides]
    assert [tuple(one.shape) for one in maps] == expected


@pytest.mark.parametrize("options", [{"attn_impl": "reference"}, {"with_cp": True}])
def test_who_computes_does_not_matter(options):
    image = torch.randn(1, 3, 37, 50)
    results = []
    for model in (small_model(), small_model(**options)):
        outs = model.train()(image)
        sum(out.square().mean() for out in outs).backward()
        results.append((outs, {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("arch", "millions"), [("tiny_c24", 20), ("tiny_c6", 23), ("base", 61)])
def test_parameters_of_the_released_models(arch, millions):
    with torch.device("meta"):
        model = SwinMLP(arch=arch)
    width = ARCHS[arch][0] * 8
    backbone = sum(p.numel() for p in model.parameters())
    assert round((backbone + 1001 * width) / 1e6) == millions  # with the classifier


def official(model):
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("norm")}
    return {"model": swin_mlp.OFFICIAL.from_openmmlab(state) | {"head.weight": torch.ones(5, 16)}}


def test_official_files_load_and_convert_back():
    source, model = small_model(), SwinMLP(**SMALL)
    report = load_backbone(model, official(source), "w")
    assert report.layout == "official"
    assert {name.partition(".")[0] for name in report.missing} == {"norm0", "norm1"}
    assert report.unexpected == ["head.fc.weight"]
    for name, value in source.stages.state_dict().items():
        assert torch.equal(model.stages.state_dict()[name], value), name
    state = official(source)["model"]
    there = convert(state, "openmmlab")
    assert not there.unmapped
    back = convert(there.state, "official").state
    assert all(torch.equal(back[name], value) for name, value in state.items())
    with pytest.raises(UserError, match=r"'timm' has no Swin-MLP: choose one of openmmlab, offic"):
        convert(state, "timm")


def test_detectors_keep_their_heads():
    state = {f"backbone.{k}": v for k, v in small_model().state_dict().items()}
    converted = convert(state | {"rpn_head.conv.weight": torch.ones(1)}, "official")
    assert converted.is_full_model
    assert "backbone.layers.0.blocks.0.spatial_mlp.weight" in converted.state
    assert "rpn_head.conv.weight" in converted.state


def test_other_swins_weights_are_refused_by_name():
    mlp = SwinMLP(**SMALL)
    sizes = {"depths": (2, 2), "num_heads": (2, 4), "embed_dims": 8}
    first = SwinTransformer(**sizes, strides=(4, 2), out_indices=(0, 1))
    second = SwinTransformerV2(arch=sizes, out_indices=(0, 1), pretrained_window_sizes=8)
    for other, name in ((first, "the first Swin Transformer"), (second, "Swin Transformer V2")):
        use = f"swin_dense.{type(other).__name__}"
        with pytest.raises(UserError, match=rf"weights of {name}: use type='{use}'.*of Swin-MLP"):
            mlp.load_state_dict(other.state_dict())
        for state in (mlp.state_dict(), official(mlp)["model"]):
            with pytest.raises(UserError, match=r"of Swin-MLP: use type='swin_dense.SwinMLP'"):
                other.load_state_dict(state)


@pytest.mark.parametrize("change", [{"window_size": 2}, {"num_heads": (4, 8)}])
def test_other_windows_and_heads_are_named(change):
    other = SwinMLP(**SMALL | {"arch": ARCH | change})
    with pytest.raises(UserError, match=r"have windows of 4 4 tokens and 2 4 heads, the config"):
        load_backbone(other, official(small_model()), "w")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_size": 7}, "SwinMLP has no argument 'window_size'"),
        ({"arch": "tiny"}, "arch must be one of tiny_c24"),
        ({"arch": {"depths": (2, 2)}}, "must have the keys embed_dims"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SwinMLP(**options)


def test_initialisation_and_freezing():
    model = SwinMLP(**SMALL, frozen_stages=1)
    model.init_weights()
    mixer = model.stages[1].blocks[0].attn.w_msa.spatial_mlp
    assert 0.01 < mixer.weight.std() < 0.03
    assert not mixer.bias.any()
    assert mixer.weight.requires_grad
    assert not any(p.requires_grad for p in model.stages[0].parameters())


def test_a_segmentor_takes_the_backbone_of_the_configs():
    configs = Path(__file__).resolve().parents[2] / "configs"
    base = Config.fromfile(configs / "_base_" / "backbones" / "swin_mlp_t.py")
    cfg = Config.fromfile(configs / "upernet_swin_t_ade20k.py")
    cfg.model.backbone = {k: v for k, v in base.backbone.items() if k != "_delete_"}
    assert cfg.model.decode_head.in_channels == base.channels
    counts = count_config(cfg, (64, 64))
    mixers = {k: n for k, n in counts.macs_of.items() if k.endswith("stages.0.blocks.0.attn")}
    assert list(mixers.values()) == [16 * 16 * 96 * 64]  # tokens, channels, tokens of a window
