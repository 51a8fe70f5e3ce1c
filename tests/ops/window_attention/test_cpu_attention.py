"""The CPU backend against the reference: values, all gradients, and memory kept for backward."""

import pytest
import torch

from swin_dense.ops.window_attention import cpu, reference, shifted_window_attention
from swin_dense.ops.window_attention.windows import WindowSpec

# (B, H, W, heads, head_dim, M, shift): several chunks, padding, less than a window.
CASES = [
    (2, 14, 21, 2, 8, 7, 0),
    (2, 14, 21, 2, 8, 7, 3),
    (1, 9, 16, 3, 4, 5, 2),
    (2, 13, 25, 1, 8, 12, 6),
    (1, 3, 2, 2, 4, 5, 2),
    (1, 1, 1, 1, 4, 7, 3),
]


def attention(qkv, qkv_bias, position_bias, spec):
    """Attention by the CPU backend, where it can run."""
    return shifted_window_attention(qkv, qkv_bias, position_bias, **spec._asdict(), impl="cpu")


def make_inputs(case, dtype=torch.float64, with_qkv_bias=True, with_position_bias=True):
    b, h, w, heads, d, m, _ = case
    g = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

    inputs = [draw(b, h, w, 3 * heads * d), draw(3 * heads * d), draw(heads, m * m, m * m)]
    wanted = (True, with_qkv_bias, with_position_bias)
    return [x if want else None for x, want in zip(inputs, wanted, strict=True)]


def run(function, inputs, case, scale=0.4):
    """Output, and gradients of a loss that weighs every output differently."""
    *_, heads, _d, m, shift = case
    out = function(*inputs, WindowSpec(heads, m, shift, scale))
    weight = torch.randint(-2, 3, out.shape, generator=torch.Generator().manual_seed(5)).to(out)
    given = [x for x in inputs if x is not None]
    # The bias of qkv has a gradient only where there is padding.
    grads = torch.autograd.grad((out * weight).sum(), given, allow_unused=True)
    return [out, *[torch.zeros_like(x) if g is None else g for g, x in zip(grads, given)]]  # noqa: B905


@pytest.mark.parametrize("biases", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case, biases, monkeypatch):
    monkeypatch.setattr(cpu, "_CHUNK", 2 * case[3] * case[5] ** 4)  # two windows a chunk
    inputs = make_inputs(case, torch.float64, *biases)
    ours = run(attention, inputs, case)
    for a, b in zip(ours, run(reference.shifted_window_attention, inputs, case), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES[:3])
def test_error_is_at_most_twice_that_of_the_reference(case, dtype):
    inputs = make_inputs(case, dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = run(reference.shifted_window_attention, exact, case)
    ours = run(attention, inputs, case)
    plain = run(reference.shifted_window_attention, inputs, case)
    for a, b, c in zip(ours, plain, expected, strict=True):
        assert a.dtype == dtype
        # Twice plain PyTorch's error, or one rounding of the largest value.
        floor = torch.finfo(dtype).eps * c.abs().max()
        assert (a.double() - c).abs().max() <= max(2 * (b.double() - c).abs().max(), floor)


def test_mask_is_finite():
    """-100 is not -inf: a masked key gets weight if its score is that much larger."""
    case = (1, 4, 4, 1, 4, 4, 2)
    inputs = make_inputs(case)
    with torch.no_grad():
        inputs[0].mul_(12)
    for a, b in zip(
        run(attention, inputs, case),
        run(reference.shifted_window_attention, inputs, case),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_no_attention_weight_is_subnormal():
    case = (1, 14, 14, 2, 8, 7, 3)
    qkv, qkv_bias, position_bias = make_inputs(case, torch.float32)
    (chunk,) = cpu._plan(14, 14, 7, 3, 2, largest=cpu._CHUNK).chunks
    q, k, _ = cpu._windows(qkv.detach()[0], qkv_bias.detach(), chunk, 2, 49)
    weights = cpu._weights(q, k, position_bias.detach(), chunk, 2, 0.4)
    assert not ((weights > 0) & (weights < torch.finfo(torch.float32).tiny)).any()
    assert (weights == 0).any()


def test_saves_only_its_arguments_for_backward():
    case = CASES[1]
    inputs = make_inputs(case)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
        attention(*inputs, WindowSpec(case[3], *case[5:], 0.4))
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in inputs}


def test_second_derivatives():
    case = (1, 3, 2, 1, 2, 2, 1)
    inputs = make_inputs(case)

    def attend(*x):
        return attention(*x, WindowSpec(1, 2, 1, 0.4))

    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradgradcheck(attend, inputs)


def test_transforms_and_export_use_the_reference():
    case = (2, 5, 4, 2, 4, 3, 1)
    qkv, qkv_bias, position_bias = (x.detach() for x in make_inputs(case))

    def attend(x):
        return attention(x, qkv_bias, position_bias, WindowSpec(2, 3, 1, 0.4))

    expected = attend(qkv)
    torch.testing.assert_close(torch.func.vmap(attend)(qkv[:, None])[:, 0], expected)
    torch.testing.assert_close(torch.func.jvp(attend, (qkv,), (qkv,))[0], expected)
    exported = torch.export.export(_Call(attend), (qkv,)).module()
    torch.testing.assert_close(exported(qkv), expected)


class _Call(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_cached_plan_is_valid_in_training_after_inference():
    case = CASES[1]
    inputs = make_inputs(case)
    cpu._plan.cache_clear()
    with torch.inference_mode():
        expected = attention(*inputs, WindowSpec(2, 7, 3, 0.4))
    assert torch.equal(run(attention, inputs, case)[0], expected)


def test_deterministic():
    case = CASES[1]
    inputs = make_inputs(case, torch.float32)
    first = run(attention, inputs, case)
    for a, b in zip(first, run(attention, inputs, case), strict=True):
        assert torch.equal(a, b)
