"""Norms that move what they read, in Triton's interpreter on the CPU.

Run by ``test_triton_block.py`` in a separate process, see ``triton_block_interpreted.py``.
"""

import pytest
import torch
from map_cases import KINDS, MapCase, assert_as_exact_as_plain_pytorch, make_inputs, ours
from plain_layers import draw, gradients
from torch import nn

from swin_dense.ops.block import Linear, Norm, neighbours, norm_linear, norm_map
from swin_dense.ops.block.triton import launch

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "stream", "dtype"),
    [
        ((2, 6, 8, 96), FP32, FP32),
        ((2, 7, 5, 24), FP32, FP16),
        ((1, 9, 4, 40), BF16, FP32),
        ((3, 3, 37, 8), FP16, FP16),
        ((1, 1, 1, 4), FP32, BF16),
        ((2, 1, 3, 256), FP32, FP16),
    ],
    ids=str,
)
def test_as_accurate_as_plain_pytorch(kind, shape, stream, dtype):
    assert_as_exact_as_plain_pytorch(MapCase(kind, shape, stream, dtype))


@pytest.mark.parametrize("programs", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_programs(monkeypatch, kind, programs):
    monkeypatch.setattr(launch, "_WARPS_PER_SM", 4 * programs)
    assert_as_exact_as_plain_pytorch(MapCase(kind, (2, 7, 9, 16), FP32, FP32))


@pytest.mark.parametrize("kind", KINDS)
def test_deterministic_and_empty(kind):
    case = MapCase(kind, (2, 7, 9, 16), FP32, FP16)
    inputs = make_inputs(case)
    assert all(map(torch.equal, *(ours(case, inputs, FP16) for _ in range(2))))
    empty = case._replace(shape=(0, 7, 9, 16))
    out, dx, *sums = ours(empty, make_inputs(empty), FP16)
    assert len(out) == len(dx) == 0
    assert not any(one.any() for one in sums)


@pytest.mark.parametrize("channels_first", [False, True])
def test_norm_map_and_its_derivatives(channels_first):
    norm = nn.LayerNorm(6)
    for i, p in enumerate(norm.parameters()):
        p.data.copy_(draw(6, seed=i).detach())
    x = draw(2, 6, 3, 5, dtype=FP32)
    layer = Norm(norm.weight, norm.bias, norm.eps)

    def plain(x):
        out = norm(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2) if channels_first else out

    def fused(x):
        return norm_map(x.permute(0, 2, 3, 1), layer, channels_first)

    for function in (lambda f: f, penalty):
        expected = gradients(function(plain), [x], norm.parameters())
        found = gradients(function(fused), [x], norm.parameters())
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x))


def penalty(function):
    """The squared gradient of a function's result with respect to its input."""

    def squared(x):
        out = function(x)
        (found,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return found.square()

    return squared


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 6, 8), (1, 5, 7, 8)])
def test_patch_merging_and_its_derivatives(shape, frozen):
    norm, linear = nn.LayerNorm(32), nn.Linear(32, 16, bias=not frozen)
    linear.weight.requires_grad_(not frozen)
    for i, p in enumerate((*norm.parameters(), *linear.parameters())):
        p.data.copy_(draw(*p.shape, seed=i).detach())
    x = draw(*shape, dtype=FP32)
    parameters = [p for p in (*norm.parameters(), *linear.parameters()) if p.requires_grad]
    layers = Norm(norm.weight, norm.bias, norm.eps), Linear(linear.weight, linear.bias)

    def plain(x):
        return linear(norm(neighbours(x, 2))).sum(-1).square().sum() * x

    def fused(x):
        merged, x = norm_linear(x, *layers, 2, triton=True)
        return merged.sum(-1).square().sum() * x

    for function in (lambda f: f, penalty):
        expected = gradients(function(plain), [x], parameters)
        found = gradients(function(fused), [x], parameters)
        for a, b in zip(found, expected, strict=True):
            bound = 1e-4 * b.abs().max().item()  # fp32, some hundred products
            torch.testing.assert_close(a, b, rtol=0, atol=bound)
