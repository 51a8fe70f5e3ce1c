"""The reference against a token-by-token definition in float64; other backends against it."""

import pytest
import torch
from attention_cases import attention, make_inputs, run

from swin_dense.ops.window_attention import sdpa, shifted_window_attention

# (B, H, W, heads, head_dim, M, shift): whole windows, padding, less than a window.
CASES = [
    (2, 4, 8, 2, 4, 4, 0),
    (1, 5, 7, 3, 4, 4, 2),
    (2, 3, 2, 1, 8, 5, 2),
    (1, 9, 4, 2, 4, 3, 1),
    (1, 1, 1, 2, 4, 7, 3),
]
NAMES = ("qkv", "qkv_bias", "position_bias")


def naive(qkv, qkv_bias, position_bias, spec):
    """Every query over the tokens of its window and region, one by one (figure 4)."""
    num_heads, window_size, shift_size, scale = spec
    b, h, w, c3 = qkv.shape
    m, d = window_size, c3 // 3 // num_heads
    padded_h, padded_w = -(-h // m) * m, -(-w // m) * m

    def token(image, y, x):
        """q, k, v at a position of the shifted, padded feature map, its region and its origin."""
        source_y, source_x = (y + shift_size) % padded_h, (x + shift_size) % padded_w
        inside = source_y < h and source_x < w
        value = qkv[image, source_y, source_x] if inside else qkv_bias
        region = (y + shift_size >= padded_h, x + shift_size >= padded_w)
        return value.view(3, num_heads, d), region, (source_y, source_x) if inside else None

    out = qkv.new_zeros(b, h, w, num_heads, d)
    rows = []
    for image in range(b):
        for top in range(0, padded_h, m):
            for left in range(0, padded_w, m):
                window = [token(image, top + i // m, left + i % m) for i in range(m * m)]
                keys = torch.stack([value[1] for value, _, _ in window])
                values = torch.stack([value[2] for value, _, _ in window])
                for i, (query, region, place) in enumerate(window):
                    if place is None:
                        continue
                    scores = scale * torch.einsum("hd,nhd->hn", query[0], keys)
                    scores = scores + position_bias[:, i]
                    masked = [0.0 if other == region else -100.0 for _, other, _ in window]
                    weights = (scores + scores.new_tensor(masked)).softmax(-1)
                    rows.append(((image, *place), torch.einsum("hn,nhd->hd", weights, values)))
    index = torch.tensor([place for place, _ in rows]).unbind(-1)
    out = out.index_put(index, torch.stack([row for _, row in rows]))
    return out.flatten(-2)


@pytest.mark.parametrize("case", CASES)
def test_reference_equals_the_definition(case):
    inputs = make_inputs(case)
    expected = run(naive, inputs, case)
    ours = run(attention, inputs, case, impl="reference")
    for name, a, b in zip(("out", *NAMES), ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("impl", ["sdpa", "cpu", "auto"])
def test_backends_equal_the_reference(case, impl):
    inputs = make_inputs(case)
    expected = run(attention, inputs, case, impl="reference")
    ours = run(attention, inputs, case, impl=impl)
    for name, a, b in zip(("out", *NAMES), ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shift", [0, 1])
def test_sdpa_splits_calls_beyond_the_launch_grid(monkeypatch, shift):
    case = (3, 5, 7, 2, 4, 3, shift)
    inputs = make_inputs(case)
    expected = run(attention, inputs, case, impl="sdpa")
    monkeypatch.setattr(sdpa, "_LARGEST_GRID", 4)
    for a, b in zip(run(attention, inputs, case, impl="sdpa"), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_low_precision(impl, dtype):
    case = (1, 5, 7, 2, 16, 4, 2)
    exact = make_inputs(case)
    inputs = [x.detach().to(dtype).requires_grad_() for x in exact]
    rounded = [x.detach().double().requires_grad_() for x in inputs]
    out, *grads = run(attention, inputs, case, impl=impl)
    expected = run(attention, rounded, case, impl="reference")
    assert out.dtype == dtype
    # A sum over 16 tokens of rounded weights and values: a few units in the last place of ~4.
    tolerance = 16 * torch.finfo(dtype).eps
    for a, b in zip([out, *grads], expected, strict=True):
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max().clamp(min=1)


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_dropout_is_unbiased(impl):
    case = (64, 2, 2, 1, 4, 2, 0)
    inputs = make_inputs(case)
    plain = run(attention, inputs, case, impl=impl)[0]
    dropped = run(attention, inputs, case, impl=impl, dropout_p=0.5)[0]
    assert not torch.equal(plain, dropped)
    assert (plain - dropped).mean().abs() < 0.1


def test_invalid_input_raises():
    inputs = make_inputs((1, 4, 4, 2, 4, 4, 0))
    good = {"num_heads": 2, "window_size": 4, "scale": 1.0}
    with pytest.raises(ValueError, match=r"one of auto, reference, .*, triton, got 'flash'"):
        shifted_window_attention(*inputs, **good, impl="flash")
    with pytest.raises(ValueError, match=r"qkv must be \(B, H, W, 3 \* C\)"):
        shifted_window_attention(*inputs, **(good | {"num_heads": 5}))
    with pytest.raises(ValueError, match=r"position_bias must be \(2, 9, 9\)"):
        shifted_window_attention(*inputs, **(good | {"window_size": 3}))
    with pytest.raises(ValueError, match="shift_size must be in"):
        shifted_window_attention(*inputs, **good, shift_size=4)
    with pytest.raises(ValueError, match=r"qkv_bias must be \(24,\)"):
        shifted_window_attention(inputs[0], inputs[1][:3], None, **good)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_gradients_with_a_graph_equal_those_without(impl):
    """Of a bias that qkv was computed with too, and that is what padding is."""
    x, weight = torch.randn(1, 5, 6, 8), torch.randn(24, 8)
    leaves = [torch.randn(24), torch.randn(2, 9, 9)]
    for leaf in leaves:
        leaf.requires_grad_()
    bias, position_bias = leaves
    qkv = torch.nn.functional.linear(x, weight, bias)
    out = shifted_window_attention(
        qkv, bias, position_bias, num_heads=2, window_size=3, shift_size=1, scale=0.5, impl=impl
    )
    expected = torch.autograd.grad(out.square().sum(), leaves, retain_graph=True)
    found = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
