"""Same weights, same feature maps and gradients as the authors' code of Swin V2 has."""

import importlib.util
import json

import pytest
import torch
from small_swin_v2 import assert_agree, outputs_and_gradients, small_model
from torch.nn import functional as F

from swin_dense import SwinTransformerV2
from swin_dense.backbones.swin_v2 import CosineWindowAttention
from swin_dense.checkpoints.layouts import second_version
from swin_dense.ops.dispatch import AttnImpl
from swin_dense.ops.window_attention.windows import log_spaced_offsets, pretrained_window_size

# The authors compute the table of offsets and log(100) in float32 in any case.
TOLERANCES = {
    torch.float64: {"value": 5e-6, "norm": 1e-7, "loss": 1e-8, "gradient": 1e-4},
    torch.float32: {"value": 3e-4, "norm": 1e-6, "loss": 1e-6, "gradient": 1e-2},
}


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden_v2"
    if not folder.is_dir():
        pytest.skip(f"no outputs of the authors' Swin V2 at {folder}")
    spec = importlib.util.spec_from_file_location("weights_v2", folder / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    cases = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in ("swin_v2", "units")
    }
    return weights, cases


def build(kw, **options):
    arch = {"embed_dims": kw["embed_dim"], "depths": kw["depths"], "num_heads": kw["num_heads"]}
    arch["extra_norm_every_n_blocks"] = kw.get("extra_norm_every_n_blocks", 0)
    return SwinTransformerV2(
        arch=arch,
        window_size=kw["window_size"],
        pretrained_window_sizes=kw.get("pretrained_window_sizes", 0),
        out_indices=(0, 1, 2, 3),
        **options,
    ).eval()


@pytest.mark.parametrize(
    ("name", "impl", "dtype"),
    [
        ("n_extra_norm_pad", "reference", torch.float64),
        ("n_extra_norm_pad", "auto", torch.float32),
        ("n_wlist_pad", "auto", torch.float64),
        ("t_w8_pad", "auto", torch.float32),
        ("t_w8_256", "auto", torch.float64),
        ("t_w8_512", "auto", torch.float32),
        ("t_w16p8_256", "auto", torch.float32),
        ("t_w16p8_512", "auto", torch.float32),
    ],
)
def test_same_as_official(golden, name, impl, dtype):
    weights, cases = golden
    golden = cases["swin_v2"][name]
    tolerance = TOLERANCES[dtype]
    model = build(golden["case"]["kw"], attn_impl=impl).to(dtype)
    model.load_state_dict({k: v.to(dtype) for k, v in weights.make(golden["keys"]).items()})
    x = weights.image(golden["case"]).to(dtype).requires_grad_()
    outs = model(x)
    loss = 0
    # The classifier shrinks windows that are larger than the map.
    compared = golden.get("dense_maps", range(4))
    for i in compared:
        expected, out = golden["outs"][i], outs[i]
        assert list(out.shape) == expected["shape"]
        values = out.flatten()[expected["idx"]].double()
        exact = torch.tensor(expected["val"], dtype=torch.float64)
        assert (values - exact).abs().max() <= tolerance["value"]
        assert out.double().norm().item() == pytest.approx(expected["norm"], rel=tolerance["norm"])
        loss = loss + (out * weights.cotangent(i, out.shape).to(dtype)).mean()
    expected = golden["grads"] if len(compared) == 4 else golden["grads_dense_maps"]
    assert loss.item() == pytest.approx(expected["loss"], abs=tolerance["loss"])
    loss.backward()
    assert x.grad.double().norm().item() == pytest.approx(expected["gx"], rel=tolerance["gradient"])
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = second_version.OFFICIAL.from_openmmlab(found)
    assert expected["params"].keys() <= found.keys()
    for key, (norm, first) in expected["params"].items():
        gradient, tolerated = found[key].double(), tolerance["gradient"] * norm
        assert gradient.norm().item() == pytest.approx(norm, abs=tolerated), key
        assert gradient.flatten()[:7].sum().item() == pytest.approx(first, abs=tolerated), key


def test_offsets_on_a_logarithmic_scale(golden):
    for case in golden[1]["units"]["coords"]:
        table = log_spaced_offsets(case["window"], case["pretrained_window"])
        axis = torch.tensor(case["axis"])
        pair = torch.meshgrid(axis, axis, indexing="ij")
        torch.testing.assert_close(table, torch.stack(pair, -1)[None], rtol=0, atol=2e-7)
        expected = case["pretrained_window"] or case["window"]
        assert pretrained_window_size(table) == expected
        assert pretrained_window_size(table.half()) == expected


def official_attention(weights, case, shift=0):
    """One layer with the weights of a case, in float64."""
    layer = CosineWindowAttention(
        case.get("channels", 8 * case["heads"]), case["heads"], case["window"], shift,
        case["pretrained_window"], AttnImpl("reference"),
    ).double()  # fmt: skip
    prefix = case.get("prefix", "layers.0.blocks.1.attn.")
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.copy_(weights.value(prefix + name, p.shape))
    return layer


def test_position_bias_of_official(golden):
    weights, cases = golden
    case = cases["units"]["position_bias"]
    bias = official_attention(weights, case).position_bias()
    expected = torch.tensor(case["bias"], dtype=torch.float64)
    assert (bias.flatten() - expected).abs().max() <= 5e-6


@pytest.mark.parametrize("impl", ["reference", "sdpa", "cpu"])
def test_window_attention_of_official(golden, impl):
    """Tokens that padding has made zero, inside the layer's input: keys of length 0."""
    weights, cases = golden
    case = cases["units"]["window_attention"]
    layer = official_attention(weights, case)
    m, c = case["window"], case["channels"]
    x = torch.randn(2, m * m, c, generator=torch.Generator().manual_seed(7))
    for window, token in case["zero_tokens"]:
        x[window, token] = 0
    x = x.double().view(2, m, m, c).requires_grad_()
    out = layer(x, AttnImpl(impl)).flatten(1, 2)
    expected = torch.tensor(case["out"], dtype=torch.float64).view(out.shape)
    assert (out - expected).abs().max() <= 5e-6
    (out * weights.cotangent(0, out.shape).double()).mean().backward()
    named = dict(layer.named_parameters())
    for name, (norm, _) in case["grads"].items():
        gradient = named[name.removeprefix(case["prefix"])].grad
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-12), name
    real = x.grad.flatten(1, 2).clone()
    for window, token in case["zero_tokens"]:
        assert real[window, token].isfinite().all()
        real[window, token] = 0
    assert real.norm().item() == pytest.approx(case["gx_nonzero_tokens"], rel=1e-4)


def plain_swin_v2(model, x):
    """The arithmetic of the paper on a model's parameters: tokens normalised, then padded."""
    maps = []
    side = model.patch_embed.patch_size
    x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
    x = model.patch_embed.norm(model.patch_embed.projection(x).permute(0, 2, 3, 1))
    for i, stage in enumerate(model.stages):
        if stage.downsample is not None:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            x = torch.stack([x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], -1).flatten(-2)
            x = stage.downsample.norm(stage.downsample.reduction(x))
        for block in stage.blocks:
            x = x + block.norm1(plain_attention(block.attn["w_msa"], x))
            x = x + block.norm2(block.ffn(x))
            x = x if block.norm3 is None else block.norm3(x)
        maps.append(getattr(model, f"norm{i}")(x).permute(0, 3, 1, 2))
    return maps


def plain_attention(layer, x):
    """As the authors write it: padding is part of the input, and normalised with it."""
    b, height, width, c = x.shape
    m, s, heads = layer.window_size, layer.shift_size, layer.num_heads
    x = F.pad(x, (0, 0, 0, -width % m, 0, -height % m))
    h, w = x.shape[1:3]
    x = x.roll((-s, -s), (1, 2))
    region = torch.zeros(h, w)
    for k, rows in enumerate((slice(0, h - m), slice(h - m, h - s), slice(h - s, h))):
        for n, columns in enumerate((slice(0, w - m), slice(w - m, w - s), slice(w - s, w))):
            region[rows, columns] = 3 * k + n

    def cut(y):
        y = y.view(-1, h // m, m, w // m, m, y.shape[-1])
        return y.transpose(2, 3).reshape(-1, m * m, y.shape[-1])

    q_bias, v_bias = layer.q_bias, layer.v_bias
    qkv = F.linear(cut(x), layer.qkv.weight, torch.cat([q_bias, 0 * v_bias, v_bias]))
    q, k, v = qkv.view(-1, m * m, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    scores = scores * layer.logit_scale.clamp(max=torch.tensor(100.0).log()).exp()
    hidden = layer.cpb_mlp[0](layer.relative_coords_table).relu()
    table = (16 * (hidden @ layer.cpb_mlp[2].weight.t()).sigmoid())[0]
    at = torch.cartesian_prod(torch.arange(m), torch.arange(m))
    rows, columns = (at[:, None] - at + m - 1).unbind(-1)
    scores = scores + table[rows, columns].permute(2, 0, 1)
    if s:
        regions = cut(region[None, :, :, None])[..., 0]
        apart = -100.0 * (regions[:, :, None] != regions[:, None, :])
        scores = scores.unflatten(0, (b, -1)) + apart[:, None]
        scores = scores.flatten(0, 1)
    out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
    out = out.view(b, h // m, w // m, m, m, c).transpose(2, 3).reshape(b, h, w, c)
    return layer.proj(out.roll((s, s), (1, 2))[:, :height, :width])


VARIANTS = {
    "window list": {"window_size": (4, 3), "pretrained_window_sizes": (6, 0)},
    "window 1": {"window_size": 1},
    "patch 2": {"patch_size": 2},
    "checkpointing": {"with_cp": True},
}


@pytest.mark.parametrize("impl", ["reference", "sdpa", "auto"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_as_the_plain_arithmetic(impl, variant):
    model = small_model(**VARIANTS[variant], attn_impl=impl).double().eval()
    x = torch.randn(2, 3, 61, 43, dtype=torch.float64)
    expected = outputs_and_gradients(model_of(plain_swin_v2, model), x)
    assert_agree(outputs_and_gradients(model, x), expected, 1e-9)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 2)])
def test_same_as_the_plain_arithmetic_on_any_size(size):
    model = small_model().double().eval()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = outputs_and_gradients(model_of(plain_swin_v2, model), x)
    assert_agree(outputs_and_gradients(model, x), expected, 1e-9)


def model_of(function, model):
    """A function of a model and an image, with the model's parameters."""

    class Plain:
        named_parameters = staticmethod(model.named_parameters)

        def __call__(self, x):
            return function(model, x)

    return Plain()
