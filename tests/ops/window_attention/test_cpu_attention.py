"""The CPU backend against the reference: values, all gradients, and memory kept for backward."""

from functools import partial

import pytest
import torch
from attention_cases import assert_error_at_most_twice, attention, make_inputs, run

from swin_dense.ops.window_attention import cpu, reference
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


attend_on_cpu = partial(attention, impl="cpu")  # where the CPU backend can run


@pytest.mark.parametrize("biases", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case, biases, monkeypatch):
    monkeypatch.setattr(cpu, "_CHUNK", 2 * case[3] * case[5] ** 4)  # two windows a chunk
    inputs = make_inputs(case)
    inputs[1:] = [x if want else None for x, want in zip(inputs[1:], biases, strict=True)]
    ours = run(attend_on_cpu, inputs, case)
    for a, b in zip(ours, run(reference.shifted_window_attention, inputs, case), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES[:3])
def test_error_is_at_most_twice_that_of_the_reference(case, dtype):
    inputs = make_inputs(case, dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = run(reference.shifted_window_attention, exact, case)
    ours = run(attend_on_cpu, inputs, case)
    plain = run(reference.shifted_window_attention, inputs, case)
    assert all(a.dtype == dtype for a in ours)
    assert_error_at_most_twice(ours, plain, expected, dtype)


def test_mask_is_finite():
    """-100 is not -inf: a masked key gets weight if its score is that much larger."""
    case = (1, 4, 4, 1, 4, 4, 2)
    inputs = make_inputs(case)
    with torch.no_grad():
        inputs[0].mul_(12)
    for a, b in zip(
        run(attend_on_cpu, inputs, case),
        run(reference.shifted_window_attention, inputs, case),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_no_attention_weight_is_subnormal():
    case = (1, 14, 14, 2, 8, 7, 3)
    qkv, qkv_bias, position_bias = make_inputs(case, torch.float32)
    plan, spec = cpu._plan(14, 14, 7, 3, 2, largest=cpu._CHUNK), WindowSpec(2, 7, 3, 0.4)
    (chunk,) = plan.chunks
    scratch = cpu._scratch(plan, qkv, position_bias, spec)
    q, k, _ = cpu._windows(qkv.detach()[0], qkv_bias.detach(), chunk, spec, scratch)
    weights = cpu._weights(q, k, position_bias.detach(), chunk, spec, scratch)
    assert not ((weights > 0) & (weights < torch.finfo(torch.float32).tiny)).any()
    assert (weights == 0).any()


def test_saves_only_its_arguments_for_backward():
    case = CASES[1]
    inputs = make_inputs(case)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
        attend_on_cpu(*inputs, WindowSpec(case[3], *case[5:], 0.4))
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in inputs}


def test_second_derivatives():
    case = (1, 3, 2, 1, 2, 2, 1)
    inputs = make_inputs(case)

    def attend(*x):
        return attend_on_cpu(*x, WindowSpec(1, 2, 1, 0.4))

    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradgradcheck(attend, inputs)


def test_transforms_and_export_use_the_reference():
    case = (2, 5, 4, 2, 4, 3, 1)
    qkv, qkv_bias, position_bias = (x.detach() for x in make_inputs(case))

    def attend(x):
        return attend_on_cpu(x, qkv_bias, position_bias, WindowSpec(2, 3, 1, 0.4))

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
        expected = attend_on_cpu(*inputs, WindowSpec(2, 7, 3, 0.4))
    assert torch.equal(run(attend_on_cpu, inputs, case)[0], expected)


def test_deterministic():
    case = CASES[1]
    inputs = make_inputs(case, torch.float32)
    first = run(attend_on_cpu, inputs, case)
    for a, b in zip(first, run(attend_on_cpu, inputs, case), strict=True):
        assert torch.equal(a, b)
