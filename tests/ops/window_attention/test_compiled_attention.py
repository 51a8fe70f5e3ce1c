"""The backend for torch.compile and torch.export: equal to the reference, for any size."""

import pytest
import torch
from attention_cases import assert_error_at_most_twice, make_inputs, run

from swin_dense.ops.window_attention import compiled, reference, sdpa, shifted_window_attention
from swin_dense.ops.window_attention.windows import WindowSpec

# (B, H, W, heads, head_dim, M, shift)
CASES = [
    (2, 6, 9, 2, 4, 3, 0),
    (2, 6, 9, 2, 4, 3, 1),
    (1, 7, 4, 1, 4, 3, 1),
    (2, 5, 8, 3, 4, 4, 2),
    (1, 3, 2, 2, 4, 5, 2),
    (1, 1, 1, 1, 4, 7, 3),
]


@pytest.mark.parametrize("attend", [compiled.attend, sdpa.attend], ids=["plain", "sdpa"])
@pytest.mark.parametrize("biases", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case, biases, attend):
    inputs = make_inputs(case)
    inputs[1:] = [x if want else None for x, want in zip(inputs[1:], biases, strict=True)]
    ours = run(compiled.shifted_window_attention, inputs, case, attend=attend)
    for a, b in zip(ours, run(reference.shifted_window_attention, inputs, case), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES[:4])
def test_error_is_at_most_twice_that_of_the_reference(case, dtype):
    """All in the same precision, except biases in float32 as under autocast."""
    inputs = make_inputs(case, dtype)
    inputs[1:] = make_inputs(case, torch.float32)[1:]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = run(reference.shifted_window_attention, exact, case)
    ours = run(compiled.shifted_window_attention, inputs, case, attend=compiled.attend)
    plain = run(reference.shifted_window_attention, inputs, case)
    assert_error_at_most_twice(ours, plain, expected, dtype)


def test_second_derivatives():
    case = (1, 3, 2, 1, 2, 2, 1)
    inputs, spec = make_inputs(case), WindowSpec(1, 2, 1, 0.4)

    def attend(*x):
        return compiled.shifted_window_attention(*x, spec, attend=compiled.attend)

    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradgradcheck(attend, inputs)


def test_dropout_is_unbiased():
    case = (64, 2, 2, 1, 4, 2, 0)
    inputs = make_inputs(case)
    for attend in (compiled.attend, sdpa.attend):
        plain = run(compiled.shifted_window_attention, inputs, case, attend=attend)[0]
        dropped = run(
            compiled.shifted_window_attention, inputs, case, attend=attend, dropout_p=0.5
        )[0]  # fmt: skip
        assert not torch.equal(plain, dropped)
        assert (plain - dropped).mean().abs() < 0.1


@pytest.mark.parametrize("impl", ["reference", "sdpa", "cpu", "auto"])
@pytest.mark.parametrize("shift", [0, 1])
def test_one_graph_for_all_sizes(impl, shift):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    def attend(*inputs):
        return shifted_window_attention(
            *inputs, num_heads=2, window_size=3, shift_size=shift, scale=0.4, impl=impl
        )

    torch._dynamo.reset()
    compiled = torch.compile(attend, backend=keep, fullgraph=True, dynamic=True)
    # Whole windows, padded ones, and feature maps narrower than a window.
    for height, width in ((6, 8), (9, 12), (7, 7), (10, 2), (31, 44)):
        inputs = make_inputs((2, height, width, 2, 4, 3, shift))
        torch.testing.assert_close(compiled(*inputs), attend(*inputs), rtol=0, atol=1e-12)
    assert len(graphs) == 1


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace_records_plain_operators():
    """Not our autograd function, which would be recorded as a call into Python."""
    qkv, qkv_bias, position_bias = (x.detach() for x in make_inputs(CASES[1]))

    def attend(x):
        sizes = {"num_heads": 2, "window_size": 3, "shift_size": 1, "scale": 0.4}
        return shifted_window_attention(x, qkv_bias, position_bias, **sizes, impl="cpu")

    graph = torch.jit.trace(attend, qkv, check_trace=False)
    assert "PythonOp" not in str(graph.graph)
    torch.testing.assert_close(graph(2 * qkv), attend(2 * qkv))
