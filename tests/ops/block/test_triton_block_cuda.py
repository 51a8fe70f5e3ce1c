"""The block's Triton kernels on a GPU: precision, determinism, compilation, CUDA graphs."""

import map_cases
import pytest
import torch
from block_cases import (
    EPS,
    FUNCTIONS,
    NORMS,
    Case,
    assert_as_exact_as_plain_pytorch,
    make_inputs,
)
from map_cases import KINDS, MapCase

from swin_dense.ops import triton_support
from swin_dense.ops.block import Norm, norm_map
from swin_dense.ops.block.triton import support


def _fits() -> bool:
    if triton_support.unavailable_reason() is not None or not torch.cuda.is_available():
        return False
    return triton_support.unsupported_device_reason(torch.device("cuda")) is None


pytestmark = pytest.mark.skipif(not _fits(), reason="no GPU that the kernels are for")

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
# Of the residual stream and of matrix products; fp32 with a lower one is autocast.
PRECISIONS = [(FP32, FP32), (FP32, FP16), (FP32, BF16), (FP16, FP16), (BF16, BF16)]


@pytest.mark.parametrize(("stream", "dtype"), PRECISIONS, ids=str)
@pytest.mark.parametrize("channels", [96, 128, 192, 256])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_as_accurate_as_plain_pytorch(name, channels, stream, dtype):
    case = Case(2, 1049, channels, True, stream, dtype, 4 * channels)
    assert_as_exact_as_plain_pytorch(name, case, "cuda")
    assert_as_exact_as_plain_pytorch(name, case._replace(scale=False), "cuda")


@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
@pytest.mark.parametrize("channels", support.WIDE_WIDTHS)
def test_wide_linear_layers_are_as_accurate_as_plain_pytorch(channels, dtype):
    gpu = torch.cuda.get_device_properties(0)
    if gpu.shared_memory_per_block_optin < support.WIDE_SHARED_MEMORY:
        pytest.skip("a GPU with less shared memory")
    for name in ("linear", "linear_backward", "gelu_linear_backward"):
        if name != "linear_backward" or channels <= support.MOST_SUMMED:
            case = Case(2, 1049, channels, True, dtype, dtype, 4 * channels)
            assert_as_exact_as_plain_pytorch(name, case, "cuda")


@pytest.mark.parametrize("dtype", [FP32, FP16, BF16], ids=str)
@pytest.mark.parametrize("channels", [1, 100, 384, 512, 768, 1024, 1536, 3072, 4096])
def test_every_norm_width(channels, dtype):
    for name in NORMS:
        case = Case(3, 211, channels, True, FP32, dtype)
        assert_as_exact_as_plain_pytorch(name, case, "cuda")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_deterministic(name):
    case = Case(2, 5003, 96, True, FP32, BF16, 384)
    inputs = make_inputs(case, "cuda")
    _, ours = FUNCTIONS[name]
    first, *others = (ours(inputs, BF16) for _ in range(4))
    assert all(torch.equal(other[key], first[key]) for other in others for key in first)


def test_tf32_only_where_allowed():
    case = Case(1, 1000, 96, False, FP32, FP32, 384)
    inputs = make_inputs(case, "cuda")
    _, ours = FUNCTIONS["mlp"]
    exact = ours(inputs, FP32)["y"]
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        rounded = ours(inputs, FP32)["y"]
    finally:
        matmul.fp32_precision = before
    # 10 bits of mantissa instead of 23.
    assert 0 < (exact - rounded).abs().max() < 2e-2


def test_a_kernel_is_compiled_once_for_all_sizes():
    from swin_dense.ops.block.triton import gelu_kernels, norm_kernels, product_kernels

    names = [(norm_kernels, "add_layer_norm"), (norm_kernels, "layer_norm_backward")]
    names += [(gelu_kernels, "gelu"), (gelu_kernels, "branch_backward")]
    products = ("mlp", "mlp_backward", "linear", "residual_linear")
    products += ("norm_linear_backward", "gelu_linear_backward")
    names += [(product_kernels, name) for name in products]

    def kernels() -> int:
        device = torch.cuda.current_device()
        return sum(len(getattr(m, name).device_caches[device][0]) for m, name in names)

    def run(images: int, tokens: int) -> None:
        inputs = make_inputs(Case(images, tokens, 96, True, FP32, BF16), "cuda")
        for _, ours in FUNCTIONS.values():
            ours(inputs, BF16)

    run(2, 72)
    before = kernels()
    for size in ((1, 1), (1, 16), (4, 256), (2, 1000), (3, 33)):
        run(*size)
    assert kernels() == before


def test_offsets_beyond_32_bits():
    from swin_dense.ops.block.triton import launch as triton_block

    rows, channels = 2**31 // 96 + 1000, 96
    free, _ = torch.cuda.mem_get_info()
    if free < 16 * 2**30:
        pytest.skip("needs 16 GiB of free memory")
    x = torch.zeros(rows, channels, device="cuda", dtype=BF16)
    x[-100:] = torch.randn(100, channels, device="cuda", dtype=BF16)
    norm = Norm(torch.ones(channels, device="cuda"), torch.zeros(channels, device="cuda"), EPS)
    for function in (lambda x: triton_block.layer_norm(x, norm, BF16), triton_block.gelu):
        y = function(x)
        assert torch.equal(y[-100:], function(x[-100:]))
        assert not y[:-100].any()


def test_cuda_graph_replays():
    inputs = make_inputs(Case(2, 500, 96, True, FP32, BF16, 384), "cuda")
    results = {}

    def run() -> None:
        for name, (_, ours) in FUNCTIONS.items():
            results[name] = ours(inputs, BF16)

    run()  # compiles, which is not possible during capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    captured = dict(results)
    inputs["x"].normal_()
    graph.replay()
    run()
    for name, expected in results.items():
        for key in expected:
            assert torch.equal(captured[name][key], expected[key]), key


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_gpu_that_is_not_the_current_device():
    for name in FUNCTIONS:
        assert_as_exact_as_plain_pytorch(name, Case(2, 50, 96, True, FP32, BF16), "cuda:1")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 50, 37, 96), (1, 25, 42, 192), (3, 13, 21, 768)], ids=str)
@pytest.mark.parametrize(("stream", "dtype"), PRECISIONS, ids=str)
def test_norms_of_maps_are_as_accurate_as_plain_pytorch(kind, shape, stream, dtype):
    map_cases.assert_as_exact_as_plain_pytorch(MapCase(kind, shape, stream, dtype), "cuda")


def test_output_norm_has_the_precision_of_pytorch():
    """LayerNorm gives fp32 under autocast, otherwise what it was given."""
    norm, x = torch.nn.LayerNorm(96).cuda(), torch.randn(1, 5, 6, 96, device="cuda", dtype=BF16)
    layer = Norm(norm.weight, norm.bias, norm.eps)
    with torch.autocast("cuda", BF16):
        assert norm_map(x, layer, True).dtype == norm(x).dtype == FP32
    assert norm_map(x.float(), layer, True).dtype == FP32
    norm, layer = norm.to(BF16), Norm(norm.weight.to(BF16), norm.bias.to(BF16), norm.eps)
    assert norm_map(x, layer, True).dtype == norm(x).dtype == BF16
