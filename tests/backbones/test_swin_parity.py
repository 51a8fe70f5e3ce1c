"""Same weights, same feature maps and gradients as in mmdet, mmseg and the official code."""

import importlib.util
import json

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer as MmdetSwin
from mmseg.models.backbones.swin import SwinTransformer as MmsegSwin

from swin_dense import SwinTransformer
from swin_dense.checkpoints.layouts import OFFICIAL

SMALL = {"embed_dims": 16, "depths": (2, 2, 3, 2), "num_heads": (1, 2, 4, 4), "window_size": 5}
VARIANTS = {
    "plain": {},
    "window 7": {"window_size": 7},
    "even window": {"window_size": 4},
    "no qkv bias": {"qkv_bias": False},
    "qk_scale": {"qk_scale": 0.3},
    "no patch norm": {"patch_norm": False},
    "strides": {"strides": (2, 2, 1, 3), "patch_size": 2},
    "out_indices": {"out_indices": (1, 3)},
    "in_channels": {"in_channels": 5},
    "mlp_ratio": {"mlp_ratio": 2},
    "activation": {"act_cfg": {"type": "ReLU"}},
    "checkpointing": {"with_cp": True},
    "absolute": {"use_abs_pos_embed": True, "pretrain_img_size": (61, 83), "patch_size": 4},
}
# float32 rounding in a few blocks, relative to the largest value.
TOLERANCE = 1e-5


def randomise(model):
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=g)
            if name.endswith("norm.weight") or (".norm" in name and name.endswith("weight")):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model


def outputs_and_gradients(model, x):
    """Feature maps, and gradients of a random projection of them: of the input and parameters."""
    x = x.clone().requires_grad_()
    outs = list(model(x))
    loss = sum(
        (o * torch.randn(o.shape, generator=torch.Generator().manual_seed(i))).mean()
        for i, o in enumerate(outs)
    )
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return outs, {"input": x.grad, **gradients}


def assert_same(ours, theirs, what):
    error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3)
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e}"


def assert_models_agree(ours, theirs, x):
    our_maps, our_gradients = outputs_and_gradients(ours, x)
    their_maps, their_gradients = outputs_and_gradients(theirs, x)
    assert len(our_maps) == len(their_maps)
    for i, (a, b) in enumerate(zip(our_maps, their_maps, strict=True)):
        assert_same(a, b, f"feature map {i}")
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        assert_same(gradient, their_gradients[name], name)


@pytest.mark.parametrize("stock", [MmdetSwin, MmsegSwin], ids=["mmdet", "mmseg"])
@pytest.mark.parametrize("impl", ["reference", "sdpa", "cpu"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_as_stock(stock, impl, variant):
    kwargs = SMALL | VARIANTS[variant]
    theirs = randomise(stock(**kwargs))
    theirs.eval()  # which returns None in mmdet
    ours = SwinTransformer(**kwargs, attn_impl=impl).eval()
    ours.load_state_dict(theirs.state_dict())
    # Stock models support the absolute embedding at one size only, in whole patches.
    x = torch.randn(2, kwargs.get("in_channels", 3), 61, 83)
    if variant == "absolute":
        x = torch.randn(2, 3, 60, 80)
    assert_models_agree(ours, theirs, x)


@pytest.mark.parametrize("stock", [MmdetSwin, MmsegSwin], ids=["mmdet", "mmseg"])
def test_our_state_dict_loads_into_stock(stock):
    ours = randomise(SwinTransformer(**SMALL, use_abs_pos_embed=True)).eval()
    theirs = stock(**SMALL, use_abs_pos_embed=True)
    theirs.eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    # Optimizers know parameters by position: the order is part of the contract.
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs(x), strict=True):
            assert_same(a, b, "feature map")


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 2), (29, 31), (64, 64), (35, 140)])
def test_same_as_stock_on_any_size(size):
    theirs = randomise(MmdetSwin(**SMALL))
    theirs.eval()
    ours = SwinTransformer(**SMALL, attn_impl="reference").eval()
    ours.load_state_dict(theirs.state_dict())
    assert_models_agree(ours, theirs, torch.randn(1, 3, *size))


def test_same_random_numbers_as_stock_in_training():
    """Stochastic depth draws in the same order, so that seeded runs can be compared."""
    kwargs = SMALL | {"drop_path_rate": 0.5}
    theirs = randomise(MmdetSwin(**kwargs))
    ours = SwinTransformer(**kwargs, attn_impl="reference")
    ours.load_state_dict(theirs.state_dict())
    theirs.train()
    ours.train()
    x = torch.randn(4, 3, 61, 83)
    results = []
    for model in (ours, theirs):
        torch.manual_seed(5)
        results.append(outputs_and_gradients(model, x)[0])
    for a, b in zip(*results, strict=True):
        assert_same(a, b, "feature map")
    with torch.no_grad():
        assert not torch.allclose(ours(x)[-1], results[0][-1])  # other random numbers


@pytest.mark.parametrize(
    ("name", "impl"),
    [(name, impl) for name in ("t_odd", "b_w12") for impl in ("reference", "sdpa", "cpu")],
)
def test_same_as_the_official_code(shared, name, impl):
    """Values computed with the official detection backbone, in its own key layout."""
    golden = json.loads((shared / "golden/official_swin.json").read_text())[name]
    case = golden["case"]
    kwargs = dict(case["kw"])
    model = SwinTransformer(embed_dims=kwargs.pop("embed_dim"), **kwargs, attn_impl=impl).eval()
    spec = importlib.util.spec_from_file_location("weights", shared / "golden/weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    official = {k: v.clone() for k, v in OFFICIAL.from_openmmlab(model.state_dict()).items()}
    model.load_state_dict(weights.fill(official), strict=True)

    x = torch.randn(case["b"], 3, *case["hw"], generator=torch.Generator().manual_seed(7))
    x.requires_grad_()
    outs = model(x)
    loss = 0
    for i, (out, expected) in enumerate(zip(outs, golden["outs"], strict=True)):
        assert list(out.shape) == expected["shape"]
        values = out.flatten()[expected["idx"]]
        assert (values - torch.tensor(expected["val"])).abs().max() <= 1e-5
        assert out.double().norm().item() == pytest.approx(expected["norm"], rel=1e-5)
        loss = loss + (out * torch.randn(out.shape, generator=seeded(100 + i))).mean()
    loss.backward()
    assert x.grad.double().norm().item() == pytest.approx(golden["gx"], rel=1e-5)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    gradients = OFFICIAL.from_openmmlab(gradients)
    for key, (norm, first) in golden["grads"].items():
        assert gradients[key].double().norm().item() == pytest.approx(norm, rel=1e-5), key
        # The sum of seven entries of either sign: rounding is relative to the gradient's size.
        ours = gradients[key].flatten()[:7].double().sum().item()
        assert ours == pytest.approx(first, rel=1e-5, abs=1e-5 * norm), key


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("onednn", ["", "0"], ids=["oneDNN", "no private operators"])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_bf16_autocast_is_as_close_to_float64_as_mmdets(grad, onednn, monkeypatch):
    """Squared errors of feature maps, and of gradients, are at most twice mmdet's."""
    monkeypatch.setenv("SWIN_DENSE_ONEDNN", onednn)
    ours = randomise(SwinTransformer(**SMALL)).eval()
    theirs, exact = MmdetSwin(**SMALL), MmdetSwin(**SMALL).double()
    for model in (theirs, exact):
        model.load_state_dict(ours.state_dict())
        model.eval()
    x = torch.randn(2, 3, 90, 122, generator=torch.Generator().manual_seed(2))

    def run(model, autocast):
        image = x.to(next(model.parameters()).dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if not grad:
                with torch.no_grad():
                    return [list(model(image))]
            outs, gradients = outputs_and_gradients(model, image)
        return [[out.detach() for out in outs], list(gradients.values())]

    expected = run(exact, autocast=False)
    for parts in zip(run(ours, True), run(theirs, True), expected, strict=True):
        our_error, their_error = (
            sum((a.double() - b).square().sum() for a, b in zip(part, parts[2], strict=True))
            for part in parts[:2]
        )
        assert 0 < our_error <= 2 * their_error
