"""The Triton backend without a GPU: limits, compilation, and in Triton's interpreter."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from swin_dense.ops import triton_support
from swin_dense.ops.window_attention import api, shifted_window_attention
from swin_dense.ops.window_attention.triton import op

HERE = Path(__file__).parent
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
TRITON = pytest.mark.skipif(
    triton_support.unavailable_reason() is not None, reason="triton not installed"
)


@TRITON
def test_kernels_in_the_interpreter(interpreted):
    """See triton_attention_interpreted.py for what is tested."""
    interpreted(HERE / "triton_attention_interpreted.py")


@pytest.fixture(scope="module")
def compiled(python) -> list[str]:
    """What triton_attention_compiled.py says: the whole of Triton's compiler, without a GPU.

    Including the assembler that Triton ships.
    """
    path = str(HERE / "triton_attention_compiled.py")
    return python(path, TRITON_INTERPRET="0").splitlines()


@TRITON
def test_kernels_compile_for_hopper(compiled):
    lines = [line for line in compiled if " bytes " not in line]
    assert len(lines) == 6
    assert all(line.endswith(" ok") for line in lines), lines


@TRITON
def test_kernels_fit_the_shared_memory_of_every_architecture(compiled):
    lines = [line for line in compiled if " bytes " in line]
    assert len(lines) == 13
    assert all(line.endswith(" ok") for line in lines), lines


@TRITON
@NO_CUDA
def test_cpu_tensors_raise():
    with pytest.raises(ValueError, match="'triton' needs a CUDA device, got a tensor on cpu"):
        shifted_window_attention(
            torch.zeros(1, 7, 7, 96), None, None,
            num_heads=1, window_size=7, scale=1.0, impl="triton",
        )  # fmt: skip


class OnCuda:
    """The attributes of a CUDA tensor that the choice of a backend reads."""

    is_cuda = True
    requires_grad = False
    device = torch.device("cuda", 0)

    def __init__(self, dtype=torch.bfloat16, channels=64):
        self.dtype = dtype
        self.shape = (1, 7, 7, 3 * channels)


@pytest.mark.parametrize(
    ("qkv", "window", "dropout", "capability", "reason"),
    [
        (OnCuda(), 7, 0.0, (9, 0), None),
        (OnCuda(torch.float32), 16, 0.0, (8, 0), None),
        (OnCuda(), 7, 0.0, (7, 5), "compute capability"),
        (OnCuda(), 7, 0.1, (9, 0), "dropout"),
        (OnCuda(), 4, 0.0, (9, 0), "window size"),
        (OnCuda(), 17, 0.0, (9, 0), "window size"),
        (OnCuda(torch.float64), 7, 0.0, (9, 0), "float32"),
        (OnCuda(channels=48), 7, 0.0, (9, 0), "heads"),
    ],
)
def test_what_triton_does_not_support_is_named(
    monkeypatch, qkv, window, dropout, capability, reason
):
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(triton_support, "_INSTALLED", True)
    found = op.unsupported_reason(qkv, 2, window, dropout)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(
    ("window", "channels", "dtype", "limit", "fits"),
    [
        (16, 128, torch.float32, 101376, False),  # compute capability 8.6, 8.9, 12.0
        (16, 128, torch.float32, 166912, True),  # 8.0
        (12, 128, torch.float32, 101376, True),
        (16, 64, torch.float32, 101376, True),
        (16, 128, torch.bfloat16, 101376, True),
    ],
)
def test_shared_memory_that_a_gpu_lacks_is_named(monkeypatch, window, channels, dtype, limit, fits):
    properties = SimpleNamespace(major=8, shared_memory_per_block_optin=limit)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(triton_support, "_INSTALLED", True)
    reason = op.unsupported_reason(OnCuda(dtype, channels), 2, window, 0.0)
    expected = "needs 139264 bytes of shared memory for windows of 16 and heads of 64 channels"
    assert reason is None if fits else reason.startswith(expected)


def test_auto_on_cuda():
    qkv = OnCuda()
    assert api.choose(qkv) == "sdpa"
    qkv.requires_grad = True
    assert api.choose(qkv) == "reference"
    with torch.no_grad():
        assert api.choose(qkv) == "sdpa"


def test_choice_is_logged_once(caplog):
    api._log_choice.cache_clear()
    call = {"num_heads": 1, "window_size": 7, "scale": 1.0}
    with caplog.at_level(logging.DEBUG, logger="swin_dense.ops.window_attention"):
        for _ in range(3):
            shifted_window_attention(torch.zeros(1, 7, 7, 96), None, None, **call)
    expected = "attn_impl='auto' is 'cpu' for cpu torch.float32, window 7, 1 heads"
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_operator_has_meta_implementations():
    """Schema and fake implementations of forward and backward, on tensors without data."""
    with torch.device("meta"):
        qkv, bias = torch.empty(2, 9, 5, 192, dtype=torch.bfloat16), torch.empty(192)
        position_bias = torch.empty(49, 49, 2).permute(2, 0, 1)
    operators = torch.ops.swin_dense
    out = operators.shifted_window_attention(qkv, bias, position_bias, 2, 7, 3, 0.1)
    assert (out.shape, out.dtype) == ((2, 9, 5, 64), torch.bfloat16)
    for wanted in ((True, True), (False, True), (True, False)):
        grads = operators.shifted_window_attention_backward(
            out, qkv, bias, position_bias, 2, 7, 3, 0.1, *wanted
        )
        like = [qkv, *(x for x, want in zip((bias, position_bias), wanted, strict=True) if want)]
        assert [(g.shape, g.dtype) for g in grads] == [(x.shape, x.dtype) for x in like]
        assert all(g.is_contiguous() for g in grads)
