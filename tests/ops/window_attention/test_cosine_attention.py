"""Normalised queries and keys, and attention with them, against plain formulas."""

import pytest
import torch
from torch.nn import functional as F

from swin_dense.ops.window_attention import cosine, shifted_window_attention

HEADS = 2


def inputs(dtype=torch.float64):
    """qkv with a query and a key of length 0, and tau."""
    g = torch.Generator().manual_seed(1)
    qkv = torch.randn(2, 5, 3, 3 * HEADS * 4, generator=g, dtype=torch.float64)
    qkv.view(2, 5, 3, 3, HEADS, 4)[1, 2, 1, :2] = 0
    tau = torch.tensor([0.3, 60.0], dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in (qkv, tau)]


def plain(qkv, tau):
    q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).unbind(-3)
    q, k = F.normalize(q, dim=-1) * tau[:, None], F.normalize(k, dim=-1)
    return torch.stack([q, k, v], -3).flatten(-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_normalised_equals_the_formula(dtype):
    """In value and gradient; where a vector is 0, the formula's gradient is 1e12, and ours 0."""
    results = []
    for function in (plain, cosine.normalised):
        qkv, tau = inputs(torch.float64 if function is plain else dtype)
        out = function(qkv, tau)
        weight = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)
        d_qkv, d_tau = torch.autograd.grad((out * weight).sum(), (qkv, tau))
        results.append([out.detach(), d_qkv.detach(), d_tau])
        with torch.no_grad():
            unit, inverse = cosine.normalise(qkv, tau)
            found = cosine.normalise_backward(weight.clone(), unit, inverse, tau)
        if function is not plain:
            results.append([unit, *found])
    for part in results:
        part[1].view(2, 5, 3, 3, HEADS, 4)[1, 2, 1, :2] *= part is not results[0]
    tolerance = 30 * torch.finfo(dtype).eps
    for ours in results[1:]:
        for a, b in zip(ours, results[0], strict=True):
            assert (a.double() - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("impl", ["reference", "sdpa", "cpu"])
def test_gradients_with_a_graph_equal_those_without(impl):
    leaves = [*inputs(), torch.randn(HEADS, 9, 9, dtype=torch.float64, requires_grad=True)]
    qkv, tau, position_bias = leaves
    bias = torch.randn(3 * HEADS * 4, dtype=torch.float64, requires_grad=True)
    leaves.append(bias)
    out = shifted_window_attention(
        qkv, bias, position_bias, num_heads=HEADS, window_size=3, shift_size=1, scale=1.0,
        impl=impl, tau=tau,
    )  # fmt: skip
    expected = torch.autograd.grad(out.square().sum(), leaves, retain_graph=True)
    found = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_tau_is_for_a_scale_of_1():
    qkv, tau = inputs()
    sizes = {"num_heads": HEADS, "window_size": 3, "scale": 0.5, "tau": tau}
    with pytest.raises(ValueError, match=r"tau must be \(2,\) and scale 1, got \(2,\) and 0.5"):
        shifted_window_attention(qkv, None, None, **sizes)
