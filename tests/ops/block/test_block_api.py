"""norm_linear and proj_mlp against plain layers, in value and in every gradient."""

import copy

import pytest
import torch
from plain_layers import Half, draw, gradients
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from swin_dense.ops.block import Linear, Norm, api, neighbours, norm_linear, pytorch

B, H, W, C = 2, 5, 6, 8


@pytest.fixture(params=["whole", "chunks of rows"])
def chunked(request, monkeypatch):
    if request.param != "whole":
        monkeypatch.setattr(pytorch, "_CHUNK", 7 * 4 * C * 8)  # seven rows of float64
        monkeypatch.setattr(pytorch, "_FEWEST_ROWS", 0)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    "scales",
    [
        *[(None, None), (None, (1.25, 0)), ((0, 1.25), (1.25, 1.25)), ((1.25, 0), (0, 0))],
        *[((0, 0), (1.25, 1.25)), ((0, 0), (0, 0))],
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
def test_proj_mlp_equals_the_plain_layers(chunked, scales, bias, kept, monkeypatch):
    monkeypatch.setattr(api, "RECOMPUTED_CHANNELS", 0 if kept else C)
    scales = tuple(None if s is None else torch.tensor(s, dtype=torch.float64) for s in scales)
    half = Half(C, scales, bias).double()
    inputs = [draw(B, H, W, C, seed=1), draw(B, H, W, C, seed=2)]
    ours = gradients(half.fused, inputs, half.parameters())
    plain = gradients(half.plain, inputs, half.parameters())
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(half.fused(*inputs), plain[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [None, 1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_norm_linear_equals_the_plain_layers(chunked, bias, stride):
    """The second result is x, whose gradient joins the first's."""
    channels = C if stride is None else 4 * C
    norm, linear = nn.LayerNorm(channels).double(), nn.Linear(channels, 28, bias=bias).double()
    parameters = [*norm.parameters(), *linear.parameters()]
    for i, p in enumerate(parameters):
        p.data.copy_(draw(*p.shape, seed=i).detach())
    fused = (Norm(norm.weight, norm.bias, norm.eps), Linear(linear.weight, linear.bias), stride)
    inputs = [draw(B, H, W, C)]

    def plain(x):
        return linear(norm(x if stride is None else neighbours(x, stride)))

    for function, ours in (
        (plain, lambda x: norm_linear(x, *fused)[0]),
        (lambda x: plain(x).sum() * x, lambda x: torch.mul(*map(total, norm_linear(x, *fused)))),
    ):
        expected = gradients(function, inputs, parameters)
        for a, b in zip(gradients(ours, inputs, parameters), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def total(x):
    """The map itself, and the sum of what has other channels."""
    return x if x.shape[-1] == C else x.sum()


def test_norm_linear_of_a_frozen_input():
    """Its result is no reason to compute gradients of what was given."""
    norm, linear = Norm(draw(C), draw(C, seed=4), 1e-5), Linear(draw(3, C), None)
    x = draw(B, H, W, C).detach()
    out, same = norm_linear(x, norm, linear)
    assert out.requires_grad
    assert not same.requires_grad
    assert same.data_ptr() == x.data_ptr()
    x.requires_grad_()
    out, same = norm_linear(x, norm, linear)
    same.sum().backward()  # nothing else is used
    assert torch.equal(x.grad, torch.ones_like(x))
    assert norm.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_at_most_twice_that_of_plain_layers(chunked, dtype):
    """Both against float64, in the same precision; a rounding of the largest value is allowed.

    Sums over rows are in another order, so in fp32 some of them lose a few more bits.
    """
    rounding = {torch.float32: 16 * torch.finfo(torch.float32).eps, torch.bfloat16: 2**-8}[dtype]
    half = Half(C, (torch.tensor((0, 1.25)), torch.tensor((1.25, 1.25)))).float()
    inputs = [draw(B, H, W, C, dtype=torch.float32, seed=i) for i in (1, 2)]
    exact = copy.deepcopy(half).double()
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    expected = gradients(exact.plain, exact_inputs, exact.parameters())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours = gradients(half.fused, inputs, half.parameters())
        plain = gradients(half.plain, inputs, half.parameters())
    for a, b, c in zip(ours, plain, expected, strict=True):
        assert a.dtype == b.dtype
        assert (a - c).abs().max() <= 2 * (b - c).abs().max() + rounding * c.abs().max()


class Casts(TorchDispatchMode):
    """Shapes of what is copied to bf16, a list for every call."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._foreach_copy_.default and args[0][0].dtype is torch.bfloat16:
            self.sizes.append([x.shape for x in args[1]])
        elif func is torch.ops.aten._to_copy.default and kwargs["dtype"] is torch.bfloat16:
            self.sizes.append([args[0].shape])
        return func(*args, **(kwargs or {}))


def test_parameters_are_cast_together_and_once():
    """The copies are kept for backward."""
    half = Half(C).float()
    inputs = [draw(B, H, W, C, dtype=torch.float32, seed=i) for i in (1, 2)]
    qkv = Linear(draw(3 * C, C, dtype=torch.float32), draw(3 * C, dtype=torch.float32))
    norm = Norm(half.norm.weight, half.norm.bias, half.norm.eps)
    first = [qkv.weight.shape, qkv.bias.shape]
    others = [
        p.shape for layer in (half.projection, half.fc1, half.fc2) for p in layer.parameters()
    ]
    with Casts() as casts:
        with torch.autocast("cpu", torch.bfloat16):
            out, x = norm_linear(inputs[0], norm, qkv)
            out = half.fused(x, out[..., :C])
        out.sum().backward()
    assert casts.sizes.count(first) == casts.sizes.count(others) == 1
    assert not [sizes for sizes in casts.sizes if len(sizes) == 1 and sizes[0] in first + others]


def test_second_derivatives():
    half = Half(C).double()
    inputs = [draw(1, 2, 2, C, seed=i) for i in (1, 2)]
    assert torch.autograd.gradgradcheck(half.fused, inputs)
    norm, linear = Norm(draw(C), draw(C, seed=4), 1e-5), Linear(draw(3, C), None)
    for used in (lambda out, _: out, lambda out, x: out.sum() * x):
        assert torch.autograd.gradgradcheck(
            lambda x, used=used: used(*norm_linear(x, norm, linear)), inputs[:1]
        )


def test_dropped_branches_are_not_computed(monkeypatch):
    monkeypatch.setattr(pytorch, "_FEWEST_ROWS", H * W)
    computed = []
    inner = pytorch.linear_gelu
    monkeypatch.setattr(
        pytorch, "linear_gelu", lambda x, *args: computed.append(len(x)) or inner(x, *args)
    )
    half = Half(C, (None, torch.tensor((0.0, 1.25)))).float()
    half.fused(*(draw(B, H, W, C, dtype=torch.float32, seed=i) for i in (1, 2)))
    assert computed == [H * W]  # of one of two images


def test_frozen_layers_get_no_gradient():
    half = Half(C).double()
    for p in (*half.norm.parameters(), *half.fc2.parameters(), half.fc1.bias):
        p.requires_grad_(False)
    inputs = [draw(B, H, W, C, seed=1).detach(), draw(B, H, W, C, seed=2)]
    trained = [inputs[1], *(p for p in half.parameters() if p.requires_grad)]
    ours, plain = (
        torch.autograd.grad(function(*inputs).square().sum(), trained)
        for function in (half.fused, half.plain)
    )
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3, 3, C), (1, 1, 1, C)])
def test_smallest_inputs(shape):
    half = Half(C).double()
    inputs = [draw(*shape, seed=i) for i in (1, 2)]
    for a, b in zip(
        gradients(half.fused, inputs, half.parameters()),
        gradients(half.plain, inputs, half.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
