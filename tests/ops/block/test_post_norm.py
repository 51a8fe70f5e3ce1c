"""proj_mlp_post_norm, and norm_linear without a norm, against plain layers in every gradient."""

import pytest
import torch
from plain_layers import draw, gradients
from torch import nn
from torch.nn import functional as F

from swin_dense.ops.block import (
    Linear,
    Norm,
    PostNormLayers,
    neighbours,
    norm_linear,
    post_norm,
    proj_mlp_post_norm,
    pytorch,
)

B, H, W, C = 2, 5, 6, 8
DROPS = [(None, None), (None, (1.25, 0)), ((0, 1.25), (1.25, 1.25)), ((1.25, 0), (0, 0))]


@pytest.fixture(params=["whole", "chunks of rows"])
def chunked(request, monkeypatch):
    if request.param != "whole":
        monkeypatch.setattr(pytorch, "_CHUNK", 7 * 4 * C * 8)  # seven rows of float64
        monkeypatch.setattr(pytorch, "_FEWEST_ROWS", 0)


class Half(nn.Module):
    """A block's layers after attention, with norms at their ends."""

    def __init__(self, scales=(None, None)):
        super().__init__()
        self.proj, self.norm1 = nn.Linear(C, C), nn.LayerNorm(C)
        self.fc1, self.fc2, self.norm2 = nn.Linear(C, 4 * C), nn.Linear(4 * C, C), nn.LayerNorm(C)
        self.scales = scales
        for i, p in enumerate(self.parameters()):
            p.data = draw(*p.shape, seed=i).detach()

    def plain(self, x, attended):
        one, two = (1 if s is None else s.view(-1, 1, 1, 1) for s in self.scales)
        x = x + one * self.norm1(self.proj(attended))
        return x + two * self.norm2(self.fc2(F.gelu(self.fc1(x))))

    def fused(self, x, attended):
        parts = (self.proj, self.norm1, self.fc1, self.fc2, self.norm2)
        layers = PostNormLayers(
            *(
                Linear(part.weight, part.bias)
                if isinstance(part, nn.Linear)
                else Norm(part.weight, part.bias, part.eps)
                for part in parts
            )
        )
        return proj_mlp_post_norm(x, attended, layers, self.scales)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("scales", [*DROPS, ((0, 0), (0, 0))], ids=str)
def test_equals_the_plain_layers(chunked, scales, kept, monkeypatch):
    monkeypatch.setattr(post_norm, "RECOMPUTED_CHANNELS", 0 if kept else C)
    half = Half(tuple(None if s is None else torch.tensor(s, dtype=torch.float64) for s in scales))
    inputs = [draw(B, H, W, C, seed=1), draw(B, H, W, C, seed=2)]
    ours = gradients(half.fused, inputs, half.parameters())
    plain = gradients(half.plain, inputs, half.parameters())
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(half.fused(*inputs), plain[0], rtol=1e-12, atol=1e-12)


def test_can_be_differentiated_twice():
    half = Half()
    inputs = [draw(1, 2, 3, C, seed=1), draw(1, 2, 3, C, seed=2)]
    second = []
    for function in (half.fused, half.plain):
        grads = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
        total = sum(g.square().sum() for g in grads)
        second.append(torch.autograd.grad(total, [*inputs, *half.parameters()], allow_unused=True))
    for a, b in zip(*second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stride", [None, 2])
def test_linear_layer_without_a_norm(chunked, stride):
    """The second result is x, whose gradient joins the first's."""
    linear = nn.Linear(C if stride is None else 4 * C, 28).double()
    layer = Linear(linear.weight, linear.bias)

    def joined(out, x):
        return torch.cat([out.flatten(), x.flatten()])

    def ours(x):
        return joined(*norm_linear(x, None, layer, stride))

    def plain(x):
        return joined(linear(x if stride is None else neighbours(x, stride)), x)

    inputs = [draw(B, H, W, C)]
    found, expected = (gradients(f, inputs, linear.parameters()) for f in (ours, plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(ours(*inputs), expected[0], rtol=1e-12, atol=1e-12)
