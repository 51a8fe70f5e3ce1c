"""Rounding and stochastic depth change what training sees, but not on average.

A training of the demo that ends with another AP, on another processor or with another version,
then differs by chance.
"""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from swin_dense import SwinTransformer
from swin_dense.ops import dispatch
from swin_dense.ops.dispatch import onednn_available

CONFIG = Path(__file__).parents[2] / "configs" / "cascade_swin_nano_shapes.py"


def demo_backbone(dtype, attn_impl, **options):
    """The demo's, with the same weights on every call, in training mode."""
    config = dict(Config.fromfile(CONFIG).model.backbone)
    del config["type"]
    torch.manual_seed(0)
    model = SwinTransformer(**config | options, attn_impl=attn_impl)
    model.init_from_scratch()
    return model.to(dtype).train()


def gradients(model, seed):
    """Of all parameters, for a loss that differs from place to place, in float64."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype

    def noise(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    maps = model(noise(2, 3, 64, 80))
    found = torch.autograd.grad(maps, list(model.parameters()), [noise(*x.shape) for x in maps])
    return [x.double() for x in found]


@pytest.mark.parametrize("products", ["MKL", "oneDNN"])
def test_gradients_in_float32_err_as_those_of_plain_modules(products, monkeypatch):
    """By as much, and no more to one side: neither up nor down, towards zero nor away from it."""
    monkeypatch.setattr(dispatch, "_SMALLEST", 0)
    monkeypatch.setattr(
        dispatch, "_prefer_onednn", lambda *_: products == "oneDNN" and onednn_available()
    )
    ours, plain = (demo_backbone(torch.float32, impl) for impl in ("auto", "reference"))
    exact = demo_backbone(torch.float64, "reference")
    shares, biases = [], []
    for seed in range(2):
        for a, b, c in zip(
            *(gradients(model, seed) for model in (ours, plain, exact)), strict=True
        ):
            scale = (b - c).square().mean().sqrt()
            error = (a - c) / scale
            shares.append(error.square().mean().sqrt())
            biases.append(torch.stack([error.mean(), (error * c.sign()).mean()]))
    assert max(shares) < 2
    assert torch.stack(shares).mean() < 1.1
    assert torch.stack(biases).mean(0).abs().max() < 0.05


def test_stochastic_depth_keeps_the_mean_of_plain_modules():
    """Of many images that drop their branches apart, whose draws differ between the two."""
    means, errors = [], []
    for seed, impl in enumerate(("auto", "reference")):
        model = demo_backbone(torch.float64, impl, depths=(2,), strides=(4,), num_heads=(1,),
                              out_indices=(0,), drop_path_rate=0.5)  # fmt: skip
        for p in model.parameters():  # branches as large as what they are added to
            torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
        image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)).double()
        torch.manual_seed(seed)
        with torch.no_grad():
            (out,) = model(image.expand(2000, -1, -1, -1))
        means.append(out.mean(0))
        errors.append(out.var(0) / len(out))
    error = (errors[0] + errors[1]).sqrt()
    assert error.max() > 0.005  # there is something to average
    assert ((means[0] - means[1]).abs() < 5 * error + 1e-12).all()
