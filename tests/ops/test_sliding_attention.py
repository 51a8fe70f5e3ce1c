"""Sliding-window attention: both forms are what a loop over tokens computes."""

import pytest
import torch
from torch.nn import functional as F

from swin_dense import SwinTransformer
from swin_dense.ops.sliding_attention import sliding_window_attention


def by_a_loop(qkv, bias, heads, k, scale):
    """Token by token: places outside have a score of -100 beside the bias, and a value of 0."""
    b, h, w, c = qkv.shape
    r = k // 2
    padded = F.pad(qkv, (0, 0, r, r, r, r)).unflatten(-1, (3, heads, -1))
    outside = F.pad(qkv.new_zeros(h, w), (r, r, r, r), value=-100.0)
    out = []
    for y in range(h):
        for x in range(w):
            near = padded[:, y : y + k, x : x + k].flatten(1, 2)  # (B, k * k, 3, heads, d)
            query = padded[:, y + r, x + r, 0]
            scores = torch.einsum("bhd,bnhd->bhn", query, near[:, :, 1]) * scale
            scores = scores + bias.t() + outside[y : y + k, x : x + k].flatten()
            out.append(torch.einsum("bhn,bnhd->bhd", scores.softmax(-1), near[:, :, 2]).flatten(1))
    return torch.stack(out, 1).view(b, h, w, c // 3)


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 5), (6, 6)])
def test_same_as_a_loop_over_tokens(size, impl):
    torch.manual_seed(0)
    heads, k = 2, 3
    leaves = (
        torch.randn(2, *size, 3 * heads * 4, dtype=torch.float64, requires_grad=True),
        torch.randn(k * k, heads, dtype=torch.float64, requires_grad=True),
    )
    expected = by_a_loop(*leaves, heads, k, 0.5)
    out = sliding_window_attention(*leaves, num_heads=heads, window_size=k, scale=0.5, impl=impl)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(expected)
    for found, wanted in zip(
        torch.autograd.grad(out, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_forms_agree_in_every_precision(dtype):
    torch.manual_seed(0)
    qkv, bias = torch.randn(1, 9, 10, 3 * 64), torch.randn(49, 2)
    options = {"num_heads": 2, "window_size": 7, "scale": 32**-0.5}
    exact = sliding_window_attention(qkv.double(), bias.double(), impl="reference", **options)
    for table in (bias.to(dtype), bias):  # autocast leaves parameters in float32
        out = sliding_window_attention(qkv.to(dtype), table, impl="auto", **options)
        assert out.dtype == dtype
        assert (out.double() - exact).abs().max() <= 20 * torch.finfo(dtype).eps


def test_without_bias_it_is_a_bias_of_zero():
    qkv = torch.randn(1, 5, 4, 12)
    options = {"num_heads": 1, "window_size": 3, "scale": 0.5}
    for impl in ("reference", "sdpa"):
        plain = sliding_window_attention(qkv, None, impl=impl, **options)
        zero = sliding_window_attention(qkv, torch.zeros(9, 1), impl=impl, **options)
        torch.testing.assert_close(plain, zero)


def test_an_even_window_raises():
    with pytest.raises(ValueError, match="odd"):
        sliding_window_attention(torch.zeros(1, 2, 2, 6), None, num_heads=1, window_size=2, scale=1)


SMALL = {
    "embed_dims": 16, "depths": (1, 2), "num_heads": (1, 2), "strides": (4, 2), "window_size": 5,
    "out_indices": (0, 1), "attention": "sliding", "drop_path_rate": 0.0,
}  # fmt: skip


def test_backbone_with_either_form():
    torch.manual_seed(0)
    fast, naive = (SwinTransformer(**SMALL, attn_impl=impl) for impl in ("auto", "reference"))
    fast.init_weights()
    naive.load_state_dict(fast.state_dict())
    image = torch.randn(1, 3, 30, 41)
    results = []
    for model in (fast, naive):
        outs = model(image)
        sum(out.square().mean() for out in outs[1:]).backward()
        grads = {k: p.grad for k, p in model.named_parameters() if not k.startswith("norm0")}
        assert all(grad is not None for grad in grads.values())
        results.append((outs, grads))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_backbone_takes_all_but_the_bias_of_a_swin():
    shared = {k: v for k, v in SMALL.items() if k != "attention"}
    swin, sliding = SwinTransformer(**shared), SwinTransformer(**SMALL)
    swin.init_weights()
    missing = sliding.load_state_dict(swin.state_dict(), strict=False).missing_keys
    assert {name.rpartition(".")[2] for name in missing} == {"position_bias_table"}
    assert torch.equal(sliding.stages[1].blocks[0].attn.w_msa.qkv.weight,
                       swin.stages[1].blocks[0].attn.w_msa.qkv.weight)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_size": 4}, "odd window_size"),
        ({"attention": "performer"}, "'window' or 'sliding'"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformer(**{**SMALL, **options})
