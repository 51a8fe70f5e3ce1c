"""The backend for torch.compile and torch.export: equal to the reference, for any size."""

import pytest
import torch

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


def make_inputs(case, dtype=torch.float64):
    b, h, w, heads, d, m, _ = case
    g = torch.Generator().manual_seed(3)
    shapes = (b, h, w, 3 * heads * d), (3 * heads * d,), (heads, m * m, m * m)
    return [
        torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def run(function, inputs, case, **kwargs):
    """Output, and gradients of a loss that weighs every output differently."""
    *_, heads, _d, m, shift = case
    out = function(*inputs, WindowSpec(heads, m, shift, 0.4), **kwargs)
    weight = torch.randint(-2, 3, out.shape, generator=torch.Generator().manual_seed(5)).to(out)
    given = [x for x in inputs if x is not None]
    # The bias of qkv has a gradient only where there is padding.
    grads = torch.autograd.grad((out * weight).sum(), given, allow_unused=True)
    return [out, *[torch.zeros_like(x) if g is None else g for g, x in zip(grads, given)]]  # noqa: B905


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
    for a, b, c in zip(ours, plain, expected, strict=True):
        assert a.dtype == b.dtype
        # Twice plain PyTorch's error, or one rounding of the largest value.
        floor = torch.finfo(dtype).eps * c.abs().max()
        assert (a.double() - c).abs().max() <= max(2 * (b.double() - c).abs().max(), floor)


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
