"""Kernels and bytes, counted without a GPU: by hand; CUDA's autocast, and autograd, without it."""

import io
from functools import partial

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from swin_dense.benchmarks.baselines import Spec
from swin_dense.benchmarks.operators import count, stored_bytes
from swin_dense.benchmarks.passes import GPU, PassesRun, measure_passes, operator_tables
from swin_dense.benchmarks.report import benchmarks_document, rows_of, terminal_table
from swin_dense.benchmarks.without_gpu import autocast, gradients, without_gpu
from swin_dense.ops import triton_support
from swin_dense.ops.block.layers import Norm
from swin_dense.ops.dispatch import OperatorCounter, is_eager
from swin_dense.ops.window_attention import shifted_window_attention

NOT_COMPILED = triton_support.unavailable_reason() or (
    "TRITON_INTERPRET is set" if triton_support.interpreted() else None
)
pytestmark = pytest.mark.skipif(NOT_COMPILED is not None, reason=f"compiling {NOT_COMPILED}")

cuda = partial(torch.empty, device="cuda")
bf16 = partial(cuda, dtype=torch.bfloat16)


def costs_of(step) -> dict[str, tuple[int, int]]:
    """Kernels and bytes of operators, without times."""
    return {name: one[:2] for name, one in count(step, GPU).items()}


# Names of operators, kernels and bytes. x is 10 x 6 in fp32: 240 bytes.
BY_HAND = {
    "read twice and written": (lambda x: x + x.clone(), {"add": (1, 720), "clone": (1, 480)}),
    "one tensor twice": (lambda x: x * x, {"mul": (1, 480)}),
    "in place": (lambda x: x.add_(1), {"add_": (1, 480)}),
    "written over": (lambda x: x.fill_(1), {"fill_": (1, 240)}),
    "by its shape": (lambda x: x.new_zeros(5), {"new_zeros": (1, 20)}),
    "views": (lambda x: x.t()[:3].unsqueeze(0).expand(5, -1, -1), {}),
    "allocated": (lambda x: torch.empty_like(x), {}),
    "expanded": (lambda x: x + cuda(6).expand(10, 6), {"add": (1, 240 + 24 + 240)}),
    "cast": (lambda x: x.to(torch.bfloat16), {"_to_copy": (1, 360)}),
    "from the host": (lambda x: torch.empty(3, device="cpu").to("cuda"), {}),
    "joined": (lambda x: torch.cat([x, x[:5]]), {"cat": (1, 240 + 120 + 360)}),
    "result by keyword": (
        lambda x: torch.ops.aten.gelu.out(x, out=x.new_empty(10, 6)),
        {"gelu": (1, 480)},
    ),
    "product": (lambda x: x @ cuda(6, 3), {"mm": (1, 240 + 72 + 120)}),
    "two axes, one after the other": (lambda x: x.roll((1, 1), (0, 1)), {"roll": (2, 960)}),
    "copied first": (
        lambda x: F.layer_norm(x.t(), (10,)),  # mean and deviation: 6 numbers each
        {"native_layer_norm": (2, 480 + 480 + 48)},
    ),
    "filled, then copied": (lambda x: F.pad(x, (0, 1)), {"constant_pad_nd": (2, 280 + 480)}),
    "cropped": (lambda x: F.pad(x, (0, -1)), {"constant_pad_nd": (1, 400)}),
    "image by image": (lambda x: F.unfold(x.view(5, 1, 4, 3), 2), {"im2col": (5, 240 + 480)}),
}


@pytest.mark.parametrize(("step", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_kernels_and_bytes_by_hand(step, expected):
    with without_gpu():
        x = cuda(10, 6)
        assert costs_of(lambda: step(x)) == expected


def test_lists_of_tensors():
    with without_gpu():
        sources = [cuda(1000) for _ in range(70)]
        halves = [bf16(1000) for _ in range(70)]
        large = [cuda(200, 65536), cuda(200, 65536), cuda(3)]
        mixed = [cuda(3), bf16(3)]
        found = [
            costs_of(lambda: torch._foreach_copy_(halves, sources)),
            costs_of(lambda: torch._foreach_add(sources, 1)),
            costs_of(lambda: torch._foreach_mul_(large, 2)),
            costs_of(lambda: torch._foreach_mul_(mixed, 2)),
        ]
    assert found == [
        {"_foreach_copy_": (2, 70_000 * 6)},  # 64 pairs, and 6
        {"_foreach_add": (2, 70_000 * 8)},
        {"_foreach_mul_": (2, 8 * (400 * 65536 + 3))},  # 320 chunks of 65536, and 81
        {"_foreach_mul_": (2, 2 * (12 + 6))},  # one by one
    ]


def test_times_are_those_of_bytes_or_products():
    with without_gpu():
        narrow, wide = bf16(4096, 16), bf16(4096, 4096)
        moved = count(lambda: narrow.t() @ narrow, GPU)["mm"]
        multiplied = count(lambda: wide @ wide, GPU)["mm"]
    assert moved.seconds == moved.bytes / GPU.rates.copy
    assert multiplied.seconds == 2 * 4096**3 / GPU.rates.matmul


def test_backward_of_a_layer_norm_reads_everything_twice():
    with without_gpu():
        x, weight = cuda(8, 4, requires_grad=True), cuda(4, requires_grad=True)
        y = F.layer_norm(x, (4,), weight)
        found = costs_of(lambda: gradients([y], [x, weight], [cuda(8, 4)]))
        y = F.layer_norm(x, (4,))
        only_x = costs_of(lambda: gradients([y], [x], [cuda(8, 4)]))
    read = 128 + 128 + 2 * 32 + 16  # y's gradient, x, mean and deviation of 8 rows, weight
    assert found == {"native_layer_norm_backward": (2, 2 * read + 128 + 16)}
    assert only_x == {"native_layer_norm_backward": (1, read - 16 + 128)}


# As "CUDA Ops that can autocast to ..." says in the documentation of torch.amp.
LOWER = {
    "linear": lambda x: F.linear(x, cuda(6, 8)),
    "matmul": lambda x: x @ cuda(8, 6),
    "bmm": lambda x: torch.bmm(x[None], cuda(1, 8, 6)),
    "conv2d": lambda x: F.conv2d(x[None, None], cuda(1, 1, 2, 2)),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(*[x[None, None]] * 3),
}
FP32 = {
    "layer_norm": lambda x: F.layer_norm(x.bfloat16(), (8,)),
    "softmax": lambda x: x.bfloat16().softmax(-1),
    "sum": lambda x: x.bfloat16().sum(),
    "cross_entropy": lambda x: F.cross_entropy(x.bfloat16(), x.bfloat16()),
}
WIDEST = {
    "cat": lambda x: torch.cat([x.bfloat16(), x]),
    "addcmul": lambda x: torch.addcmul(x.bfloat16(), x.bfloat16(), x),
    "add": lambda x: x.bfloat16() + x,
}


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        *((one, torch.bfloat16) for one in LOWER.values()),
        *((one, torch.float32) for one in (*FP32.values(), *WIDEST.values())),
    ],
    ids=[*LOWER, *FP32, *WIDEST],
)
def test_autocast_is_cudas(function, dtype):
    with without_gpu():
        x = cuda(4, 8)
        with autocast(torch.bfloat16):
            assert function(x).dtype == dtype
        with autocast(torch.float32):
            assert F.linear(x, cuda(6, 8)).dtype == torch.float32
    assert not torch.is_autocast_enabled("cuda")


def test_weights_are_cast_once_in_a_region_of_autocast():
    with without_gpu():
        x, layer = bf16(4, 8), nn.Linear(8, 8, bias=False, device="cuda")

        def step() -> None:
            with autocast(torch.bfloat16):
                layer(layer(x))

        assert costs_of(step)["_to_copy"] == (1, 64 * 4 + 64 * 2)


class Double(torch.autograd.Function):
    """Twice a tensor, with an argument that is none."""

    @staticmethod
    def forward(ctx, factor: float, x: Tensor) -> Tensor:
        ctx.factor = factor
        return factor * x

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        return None, ctx.factor * grad


def test_gradients_are_those_of_autograd():
    """On numbers: of several results, with sums over broadcast axes, casts and shared tensors."""
    torch.manual_seed(0)
    x, w, b = (torch.randn(*s, requires_grad=True) for s in ((5, 4), (4, 4), (4,)))
    unused = torch.randn(3, requires_grad=True)
    frozen = torch.randn(5, 4)

    h = F.layer_norm(x @ w + b, (4,), b)
    h = h + Double.apply(2.0, h) * frozen
    transposed = h.t() + 1
    h = h + transposed.t()
    left, _ = h.split(2, dim=1)
    outputs = [left.bfloat16() + b[:2], (h * w[0]).roll(1, 0), h, transposed.reshape(20)]
    grads = [torch.randn_like(y) for y in outputs]
    leaves = [x, w, b, unused]
    with OperatorCounter() as usual:
        expected = torch.autograd.grad(outputs, leaves, grads, retain_graph=True, allow_unused=True)
    with OperatorCounter() as ours:
        found = gradients(outputs, leaves, grads)
    assert usual.count == ours.count > 20
    assert found[3] is None
    torch.testing.assert_close(found[:3], list(expected[:3]))


def test_launches_count_with_the_bytes_of_their_tensors():
    from swin_dense.ops.block.triton import launch

    with without_gpu():
        x, y, scale = cuda(64, 96), bf16(64, 96), cuda(4)
        norm = Norm(cuda(96), cuda(96), 1e-5)
        added = costs_of(lambda: launch.add(x, y, scale))
        normed = costs_of(lambda: launch.add_layer_norm(x, y, None, norm, torch.bfloat16))
        hidden, d_hidden = bf16(64, 96), bf16(64, 96)
        backward = costs_of(lambda: launch.gelu_backward(d_hidden, hidden))
    rows = 64 * 96
    assert added == {"block.add_layer_norm": (1, 4 * rows + 2 * rows + 16 + 4 * rows)}
    assert normed == {"block.add_layer_norm": (1, (4 + 2 + 4 + 2) * rows + 2 * 4 * 96)}
    sums = backward["sum"][1] - 4 * 96  # of programs, which another kernel adds up
    # d_hidden is read and written, hidden read, its GELU written.
    assert backward["block.branch_backward"] == (1, 4 * 2 * rows + sums)


def test_attention_runs_on_tensors_without_numbers():
    with without_gpu():
        qkv, bias = bf16(2, 10, 14, 96, requires_grad=True), bf16(1, 49, 49)
        options = {"num_heads": 1, "window_size": 7, "shift_size": 3, "scale": 1.0}

        def step(impl: str) -> None:
            out = shifted_window_attention(qkv, None, bias, impl=impl, **options)
            gradients([out], [qkv], [bf16(2, 10, 14, 32)])

        fused = costs_of(lambda: step("triton"))
        plain = costs_of(lambda: step("sdpa"))
    size = stored_bytes(qkv)
    assert fused["window_attention.forward"] == (1, size + stored_bytes(bias) + size // 3)
    assert {name for name in fused if "." in name} == {
        "window_attention.forward",
        "window_attention.backward",
    }
    assert plain["_scaled_dot_product_efficient_attention"][0] == 1
    assert plain["_scaled_dot_product_efficient_attention_backward"][0] == 1
    in_all = [sum(size for _, size in found.values()) for found in (plain, fused)]
    assert in_all[0] > 2 * in_all[1]


def test_nothing_is_left_behind():
    with without_gpu():
        count(lambda: cuda(3) + 1, GPU)
    meta = torch.empty(1, device="meta")
    assert not is_eager(meta)
    assert triton_support.unsupported_device_reason(meta.device) is not None
    assert type(torch.empty(1)) is Tensor
    with triton_support.compiling_for(GPU.target.properties):
        assert is_eager(meta)


SPEC = Spec(
    embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=7, size=(64, 96)
)


@pytest.fixture(scope="module")
def record() -> dict:
    found = measure_passes(PassesRun(SPEC, ["sdpa"], {"mmdet": "3.3.0"}, 2, "bf16"))
    found["settings"]["arch"] = "tiny"
    return {"kind": "passes", "command": "tools/benchmark.py passes", "date": "2030-01-01",
            "versions": "some", **found}  # fmt: skip


def test_models(record):
    ours, mmdet = record["models"]
    kernels = {}
    for one in (ours, mmdet):
        assert len(one["blocks"]) == 4
        for phase in ("forward", "training"):
            operators = one[phase]["operators"]
            kernels[one["name"], phase] = {each["name"]: each["kernels"] for each in operators}
            assert one[phase]["kernels"] == sum(each["kernels"] for each in operators)
            assert one[phase]["gb"] == pytest.approx(
                sum(each["gb"] for each in operators), abs=0.02
            )
    # Products of 5 blocks: qkv, projection and two of the MLP, two of the attention; of 3 mergings.
    found = kernels["mmdet", "forward"]
    assert (found["addmm"], found["mm"], found["bmm"]) == (5 * 4, 3, 5 * 2)
    # Backward has two for each: gradients of inputs and of weights.
    found = kernels["mmdet", "training"]
    assert (found["addmm"], found["mm"], found["bmm"]) == (5 * 4, 3 + 2 * (5 * 4 + 3), 3 * 5 * 2)
    assert found["convolution_backward"] == 2  # of weight and bias: the image needs no gradient
    assert found["native_layer_norm_backward"] >= 2 * (1 + 5 * 2 + 3 + 4)
    assert kernels["ours", "forward"]["_scaled_dot_product_efficient_attention"] == 5
    assert "_softmax" not in kernels["ours", "forward"]


def test_tables(record):
    text = io.StringIO()
    console = Console(file=text, width=80)
    console.print(terminal_table(record), *operator_tables(record))
    assert max(map(len, text.getvalue().splitlines())) <= 80
    words = {word for row in rows_of(record) for cell in row for word in cell.split()}
    assert words | {"_scaled_dot_product_efficient_attention_backward"} <= set(
        text.getvalue().split()
    )
    assert len(rows_of(record)) == 1 + 2 * (1 + 4)


def target_lines(record: dict) -> list[str]:
    text = benchmarks_document([record], "tools/benchmark.py report", {})
    return [line for line in text.splitlines() if "counted |" in line]


def test_targets(record):
    backbone = {"forward": {"kernels": 149, "gb": 25.5}, "training": {"kernels": 500, "gb": 101.4}}
    block = {"forward": {"kernels": 9, "gb": 3.0}, "training": {"kernels": 50, "gb": 9.0}}
    ours = {"name": "ours", "attn_impl": "triton", **backbone, "blocks": [block] * 4}
    settings = record["settings"] | {"size": [800, 1344], "batch": 16}
    lines = target_lines(record | {"settings": settings, "models": [record["models"][0], ours]})
    case = "| bf16, 800x1344, tiny, batch 16, triton"
    assert lines == [
        f"{case}, whole backbone, forward, counted | at most 26 GB | at most 22 GB | 25.50 GB | counted for sm_90, no GPU |",  # noqa: E501
        f"{case}, whole backbone, training, counted | at most 110 GB | at most 95 GB | 101 GB | counted for sm_90, no GPU |",  # noqa: E501
        f"{case}, whole backbone, forward, counted | at most 150 kernels |  | 149 kernels | counted for sm_90, no GPU |",  # noqa: E501
        f"{case}, block of stage 1, forward, counted | at most 9 kernels |  | 9 kernels | counted for sm_90, no GPU |",  # noqa: E501
    ]
    assert all("not measured" in line for line in target_lines(record))  # another size


def test_predictions_stand_apart(record):
    text = benchmarks_document([record], "tools/benchmark.py report", {})
    measured, title, predicted = text.partition("## Predictions, not measurements\n")
    assert title
    assert "## " not in predicted
    assert "No figure of this table was measured" in predicted
    assert " ms" not in measured.partition("## Kernels and bytes")[2]
    mmdet = record["models"][1]["forward"]["predicted_ms"]
    assert f"| tiny, 64x96, batch 2, bf16: mmdet | {mmdet:.1f} | 1.0 |" in predicted
    without = {"kernels": 1, "gb": 1.0, "operators": []}
    plain = [one | {"forward": without, "training": without} for one in record["models"]]
    text = benchmarks_document([record | {"models": plain}], "tools/benchmark.py report", {})
    assert "Predictions" not in text
