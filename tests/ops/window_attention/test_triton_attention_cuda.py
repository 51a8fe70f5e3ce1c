"""The Triton kernels on a GPU: precision, determinism, compilation, CUDA graphs."""

import pytest
import torch
from triton_attention_cases import CASES, Case, assert_as_exact_as_plain_pytorch, make_inputs, run

from swin_dense.backbones import SwinTransformer
from swin_dense.ops import triton_support
from swin_dense.ops.window_attention import shifted_window_attention


def _fits() -> bool:
    if triton_support.unavailable_reason() is not None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_properties(0).major >= triton_support.MAJOR_CAPABILITY


pytestmark = pytest.mark.skipif(not _fits(), reason="no GPU that the kernels are for")

# As large as stage 1 of a small image, so that each program computes many windows.
LARGE = [Case(2, 101, 83, 3, 7, 3), Case(1, 101, 83, 3, 12, 6)]
PRECISIONS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=str)
def test_as_accurate_as_plain_pytorch(case, dtype):
    assert_as_exact_as_plain_pytorch(case, dtype, dtype, "cuda")


@pytest.mark.parametrize("dtype", PRECISIONS[1:], ids=str)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_as_accurate_as_plain_pytorch_under_autocast(case, dtype):
    """qkv is in the precision of autocast, parameters are in fp32."""
    assert_as_exact_as_plain_pytorch(case, dtype, torch.float32, "cuda")


@pytest.mark.parametrize("window", [5, 6, 8, 9, 10, 11, 13, 14, 15, 16])
def test_every_window_size(window):
    case = Case(1, 2 * window, 2 * window - 1, 2, window, window // 2)
    for dtype in PRECISIONS:
        assert_as_exact_as_plain_pytorch(case, dtype, torch.float32, "cuda")


def test_tf32_only_where_allowed():
    inputs = make_inputs(LARGE[0], torch.float32, torch.float32, "cuda")
    exact = run("triton", LARGE[0], inputs)
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        rounded = run("triton", LARGE[0], inputs)
    finally:
        matmul.fp32_precision = before
    # 10 bits of mantissa instead of 23.
    difference = (exact["out"] - rounded["out"]).abs().max()
    assert 0 < difference < 2e-2


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_deterministic(case):
    inputs = make_inputs(case, torch.bfloat16, torch.float32, "cuda")
    first, *others = (run("triton", case, inputs) for _ in range(4))
    assert all(torch.equal(other[name], first[name]) for other in others for name in first)


def test_64_bit_offsets(monkeypatch):
    from swin_dense.ops.window_attention.triton import launch as triton_launch

    for case in LARGE:
        inputs = make_inputs(case, torch.bfloat16, torch.float32, "cuda")
        expected = run("triton", case, inputs)
        with monkeypatch.context() as patch:
            patch.setattr(triton_launch, "_LARGEST_INT32", 0)
            ours = run("triton", case, inputs)
        for name in expected:
            # Offsets change registers, not the order of sums.
            torch.testing.assert_close(ours[name], expected[name], rtol=1e-2, atol=1e-2)


def test_one_compilation_for_all_sizes():
    from swin_dense.ops.window_attention.triton import kernels as triton_kernels

    def kernels() -> int:
        cache, *_ = triton_kernels.forward.device_caches[torch.cuda.current_device()]
        return len(cache)

    def attend(batch, height, width):
        case = Case(batch, height, width, 2, 7, 3)
        run("triton", case, make_inputs(case, torch.float16, torch.float16, "cuda"))

    attend(1, 9, 8)
    before = kernels()
    for size in ((1, 1, 1), (16, 16, 16), (2, 33, 50), (1, 48, 20)):
        attend(*size)
    assert kernels() == before


def test_torch_compile_does_not_recompile_for_other_sizes():
    def attend(*inputs):
        return shifted_window_attention(
            *inputs, num_heads=2, window_size=7, shift_size=3, scale=0.2, impl="triton"
        )

    compiled = torch.compile(attend, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for height, width in ((20, 30), (21, 28), (15, 47)):
            case = Case(2, height, width, 2, 7, 3)
            inputs = make_inputs(case, torch.bfloat16, torch.float32, "cuda")
            out, expected = compiled(*inputs), attend(*inputs)
            assert torch.equal(out, expected)
            ours = torch.autograd.grad(out.sum(), inputs)
            theirs = torch.autograd.grad(expected.sum(), inputs)
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_cuda_graph_replays():
    case = LARGE[0]
    inputs = [x.detach() for x in make_inputs(case, torch.bfloat16, torch.float32, "cuda")]

    def attend():
        return shifted_window_attention(
            *inputs, num_heads=3, window_size=7, shift_size=3, scale=0.2, impl="triton"
        )

    attend()  # compiles, which is not possible during capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend()
    inputs[0].normal_()
    graph.replay()
    assert torch.equal(out, attend())


def test_backbone_under_autocast():
    """Feature maps and gradients of a backbone: as close to fp32 as plain PyTorch in autocast."""
    x = torch.randn(1, 3, 200, 168, device="cuda")

    def results(impl: str, autocast: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = SwinTransformer(drop_path_rate=0.0, attn_impl=impl).cuda()
        model.init_weights()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            maps = model(x)
        generator = torch.Generator("cuda").manual_seed(1)
        weights = [torch.randn(m.shape, device="cuda", generator=generator) for m in maps]
        sum((m.float() * w).sum() for m, w in zip(maps, weights, strict=True)).backward()
        return [*(m.detach().float() for m in maps), *(p.grad for p in model.parameters())]

    runs = (results("reference", False), results("reference", True), results("triton", True))
    for exact, plain, ours in zip(*runs, strict=True):
        allowed = 2 * (plain - exact).norm() + 1e-3 * exact.norm()
        assert (ours - exact).norm() <= allowed


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_gpu_that_is_not_the_current_device():
    assert_as_exact_as_plain_pytorch(LARGE[0], torch.float16, torch.float16, "cuda:1")
