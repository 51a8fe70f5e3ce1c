"""The attention kernels in Triton's interpreter, on the CPU.

Run by ``test_triton_attention.py`` in a separate process: Triton decides at import whether it
compiles or interprets. By hand: ``TRITON_INTERPRET=1 pytest`` and this file.

Not in bf16, whose matrix products are wrong in the interpreter.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from triton_attention_cases import CASES, Case, assert_as_exact_as_plain_pytorch, make_inputs, run

from swin_dense.backbones import SwinTransformer
from swin_dense.ops.window_attention import shifted_window_attention
from swin_dense.ops.window_attention.triton import op as triton_attention

MIXED = Case(1, 6, 8, 2, 5, 2)  # shifted, padded, several windows per program


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fp32_equals_float64(case):
    assert_as_exact_as_plain_pytorch(case, torch.float32, torch.float32)


@pytest.mark.parametrize("bias_dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    "case",
    [
        MIXED,
        Case(1, 3, 7, 2, 5, 2),
        Case(1, 9, 8, 1, 7, 3, head_dim=64),
        Case(1, 8, 9, 1, 8, 4, head_dim=16),
        # Tiles of large windows are others than in fp32.
        Case(1, 12, 11, 1, 12, 6),
        Case(1, 13, 11, 1, 13, 0, head_dim=64),
        Case(1, 16, 15, 1, 16, 8),
    ],
    ids=str,
)
def test_fp16_equals_float64(case, bias_dtype):
    """Under autocast qkv is in fp16, and parameters are in fp32."""
    assert_as_exact_as_plain_pytorch(case, torch.float16, bias_dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", [MIXED, Case(1, 9, 8, 2, 8, 4), Case(1, 3, 15, 2, 16, 8)], ids=str)
def test_cosine_attention_equals_float64(case, dtype):
    """Swin V2's: queries of length tau, keys of length 1 and, of padding, 0."""

    def function(qkv, qkv_bias, *others, **settings):
        without_key = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(qkv_bias) // 3)
        tau = torch.tensor([2.0, 30.0])
        return shifted_window_attention(qkv, qkv_bias * without_key, *others, tau=tau, **settings)

    case = case._replace(scale=1.0)
    assert_as_exact_as_plain_pytorch(case, dtype, torch.float32, function=function)


@pytest.mark.parametrize("programs", [1, 3, 100])
def test_any_number_of_programs(monkeypatch, programs):
    from swin_dense.ops.window_attention.triton import launch as triton_launch

    monkeypatch.setattr(triton_launch, "concurrent_programs", lambda *_: programs)
    assert_as_exact_as_plain_pytorch(MIXED, torch.float32, torch.float32)


def test_number_of_programs_is_what_a_gpu_holds():
    from swin_dense.ops.window_attention.triton.launch import groups_of_windows, resident_programs

    hopper = SimpleNamespace(
        warp_size=32, regs_per_multiprocessor=2**16, max_threads_per_multi_processor=2048,
        shared_memory_per_multiprocessor=228 * 1024,
    )  # fmt: skip
    assert resident_programs(hopper, warps=4, registers=95, shared=28672) == 5
    assert resident_programs(hopper, warps=4, registers=168, shared=28672) == 3
    assert resident_programs(hopper, warps=8, registers=255, shared=16384) == 1
    assert resident_programs(hopper, warps=4, registers=32, shared=100 * 1024) == 2
    # 3 programs a group: 132 groups are one wave of 396 programs, 133 would be two.
    assert groups_of_windows(100000, programs=3, concurrent=396) == 132
    # No more groups than windows, and no group that only shortens its own loop.
    assert groups_of_windows(24, programs=24, concurrent=396) == 12
    assert groups_of_windows(2, programs=3, concurrent=396) == 2
    assert groups_of_windows(0, programs=3, concurrent=396) == 1
    # More programs a group than run at once: several waves that are nearly full.
    assert groups_of_windows(560, programs=144, concurrent=264) * 144 / 264 > 2.5


def test_64_bit_offsets_give_the_same(monkeypatch):
    from swin_dense.ops.window_attention.triton import launch as triton_launch

    for case in (MIXED, Case(1, 9, 8, 1, 9, 4)):
        inputs = make_inputs(case, torch.float32, torch.float32)
        expected = run("triton", case, inputs)
        with monkeypatch.context() as patch:
            patch.setattr(triton_launch, "_LARGEST_INT32", 0)
            ours = run("triton", case, inputs)
        assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_only_required_gradients_are_computed(wanted):
    inputs = make_inputs(MIXED, torch.float32, torch.float32)
    expected = list(run("reference", MIXED, inputs).values())[1:]
    inputs = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
    out = shifted_window_attention(
        *inputs, num_heads=2, window_size=5, shift_size=2, scale=MIXED.scale, impl="triton"
    )
    weight = torch.randint(-2, 3, out.shape, generator=torch.Generator().manual_seed(5)).to(out)
    (out * weight).sum().backward()
    for i, x in enumerate(inputs):
        if i in wanted:
            torch.testing.assert_close(x.grad, expected[i], rtol=1e-4, atol=1e-5)
        else:
            assert x.grad is None


def test_second_derivatives():
    """Of a penalty on the gradient of qkv: plain PyTorch gives the fused operator's."""
    results = {}
    for impl in ("reference", "triton"):
        inputs = make_inputs(MIXED, torch.float32, torch.float32)
        out = shifted_window_attention(
            *inputs, num_heads=2, window_size=5, shift_size=2, scale=MIXED.scale, impl=impl
        )
        (first,) = torch.autograd.grad((out**2).sum(), inputs[0], create_graph=True)
        results[impl] = torch.autograd.grad((first**2).sum(), inputs)
    for ours, expected in zip(results["triton"], results["reference"], strict=True):
        assert expected.abs().max() > 0
        tolerance = float(1e-5 * expected.abs().max())
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)


def test_strided_and_empty_inputs():
    qkv, qkv_bias, position_bias = make_inputs(MIXED, torch.float32, torch.float32)
    call = {"num_heads": 2, "window_size": 5, "shift_size": 2, "scale": 0.2}
    expected = shifted_window_attention(qkv, qkv_bias, position_bias, **call, impl="reference")
    strided = qkv.detach().permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)
    bias = position_bias.detach().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    ours = shifted_window_attention(strided, qkv_bias, bias, **call, impl="triton")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    ours = shifted_window_attention(qkv[:0], qkv_bias, position_bias, **call, impl="triton")
    assert ours.shape == (0, *expected.shape[1:])
    ours.sum().backward()
    assert not position_bias.grad.any()


def test_opcheck():
    """Schema, fake implementation, autograd registration, tracing with symbolic sizes."""
    inputs = make_inputs(Case(1, 6, 4, 1, 5, 2), torch.float32, torch.float32)
    result = torch.library.opcheck(
        triton_attention.shifted_window_attention, (*inputs, 1, 5, 2, 0.2)
    )
    assert set(result.values()) == {"SUCCESS"}


def test_operator_equals_direct_call():
    inputs = make_inputs(MIXED, torch.float32, torch.float32)
    direct = run("triton", MIXED, inputs)
    with Seen() as seen:
        observed = run("triton", MIXED, inputs)
    operators = torch.ops.swin_dense
    assert operators.shifted_window_attention.default in seen.operators
    assert operators.shifted_window_attention_backward.default in seen.operators
    assert all(torch.equal(observed[name], direct[name]) for name in direct)


class Seen(TorchDispatchMode):
    """Records the operators that are called."""

    def __init__(self):
        super().__init__()
        self.operators = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operators.add(function)
        return function(*args, **(kwargs or {}))


def test_compiles_to_one_operator_for_all_sizes():
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    def attend(*inputs):
        return shifted_window_attention(
            *inputs, num_heads=1, window_size=5, shift_size=2, scale=0.2, impl="triton"
        )

    compiled = torch.compile(attend, backend=keep, fullgraph=True, dynamic=True)
    for height, width in ((6, 4), (5, 10), (11, 3)):
        inputs = make_inputs(Case(1, height, width, 1, 5, 2), torch.float32, torch.float32)
        torch.testing.assert_close(compiled(*inputs), attend(*inputs), rtol=0, atol=0)
    assert len(graphs) == 1
    calls = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert calls.count(torch.ops.swin_dense.shifted_window_attention.default) == 1
    assert len([c for c in calls if "sym" not in str(c) and "aten" in str(c)]) == 0


def test_compiled_gradients_equal_eager_ones():
    case = Case(1, 6, 4, 1, 5, 2)
    inputs = make_inputs(case, torch.float32, torch.float32)
    compiled = torch.compile(shifted_window_attention, backend="aot_eager", fullgraph=True)
    ours = run("triton", case, inputs, compiled)
    expected = run("triton", case, inputs)
    for name in expected:
        assert torch.equal(ours[name], expected[name]), name


def test_export_contains_one_operator():
    class Attend(nn.Module):
        def forward(self, *inputs):
            return shifted_window_attention(
                *inputs, num_heads=1, window_size=5, scale=0.2, impl="triton"
            )

    inputs = [x.detach() for x in make_inputs(Case(1, 6, 4, 1, 5, 0), torch.float32, torch.float32)]
    size = {1: torch.export.Dim("height", min=2), 2: torch.export.Dim("width", min=2)}
    program = torch.export.export(Attend(), tuple(inputs), dynamic_shapes=((size, None, None),))
    calls = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert calls.count("swin_dense.shifted_window_attention.default") == 1


def test_backbone_and_its_gradients():
    """Gradients of qkv weight and bias, bias table, and image."""
    results = {}
    x, weight = torch.randn(1, 3, 44, 36), torch.randn(64)
    for impl in ("reference", "triton"):
        torch.manual_seed(0)
        model = SwinTransformer(
            embed_dims=32, depths=(2, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1),
            window_size=7, drop_path_rate=0.0, attn_impl=impl,
        )  # fmt: skip
        model.init_weights()
        for name, parameter in model.named_parameters():
            if name.endswith(("bias_table", "qkv.bias")):
                nn.init.normal_(parameter)
        image = x.clone().requires_grad_()
        # Not squares of the feature maps: the last LayerNorm makes their sum constant.
        sum((m * weight[: m.shape[1], None, None]).sum() for m in model(image)).backward()
        results[impl] = {name: p.grad for name, p in model.named_parameters()}
        results[impl]["image"] = image.grad
    for name, expected in results["reference"].items():
        # Both are fp32: rounding of a few hundred operations in another order.
        tolerance = 1e-4 * expected.abs().max()
        torch.testing.assert_close(
            results["triton"][name], expected, rtol=0, atol=float(tolerance), msg=name
        )


def test_saves_only_its_inputs_for_backward():
    inputs = make_inputs(MIXED, torch.float32, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
        shifted_window_attention(
            *inputs, num_heads=2, window_size=5, shift_size=2, scale=0.2, impl="triton"
        )
    assert [x.data_ptr() for x in kept] == [x.data_ptr() for x in inputs]


def test_deterministic():
    inputs = make_inputs(MIXED, torch.float32, torch.float32)
    first, second = (run("triton", MIXED, inputs) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_unsupported_arguments_raise():
    qkv, bias, position_bias = make_inputs(MIXED, torch.float32, torch.float32)
    call = {"num_heads": 2, "window_size": 5, "scale": 1.0, "impl": "triton"}
    bad = {
        "heads of 16, 32, 64 channels, got 8": ((qkv, bias, None), {"num_heads": 8}),
        r"window size in 5\.\.16, got 4": ((qkv, bias, None), {"window_size": 4}),
        "got float64": ((qkv.double(), bias, position_bias), {}),
        "without dropout, got a rate of 0.1": ((qkv, bias, position_bias), {"dropout_p": 0.1}),
    }
    for message, (inputs, kwargs) in bad.items():
        with pytest.raises(ValueError, match=message):
            shifted_window_attention(*inputs, **(call | kwargs))
