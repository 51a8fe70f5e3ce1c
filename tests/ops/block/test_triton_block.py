"""The block's Triton kernels without a GPU: limits, compilation, and in Triton's interpreter."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from swin_dense.ops import triton_support
from swin_dense.ops.block.triton import support

HERE = Path(__file__).parent
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
TRITON = pytest.mark.skipif(
    triton_support.unavailable_reason() is not None, reason="triton not installed"
)


@TRITON
def test_kernels_in_the_interpreter(interpreted):
    """See the files that it runs for what is tested."""
    parts = ("triton_block", "triton_block_api", "map_norms", "gelu")
    interpreted(*(HERE / f"{part}_interpreted.py" for part in parts))


@TRITON
def test_block_kernels_compile_for_hopper(python):
    """Without a GPU: the whole of Triton's compiler, including the assembler that it ships."""
    lines = python(str(HERE / "triton_block_compiled.py"), TRITON_INTERPRET="0").splitlines()
    assert len(lines) == 22
    assert all(line.endswith(" ok") for line in lines), lines


@TRITON
@NO_CUDA
def test_cpu_tensors_raise():
    from swin_dense.ops.block.triton import launch as triton_block

    with pytest.raises(ValueError, match="add in Triton needs a CUDA device, got a tensor on cpu"):
        triton_block.add(torch.zeros(2, 96), torch.zeros(2, 96), None)


class OnCuda:
    """The attributes of a CUDA tensor that the checks read."""

    is_cuda = True
    device = torch.device("cuda", 0)
    dtype = torch.float32

    def __init__(self, channels):
        self.shape = (4, channels)

    def dim(self):
        return len(self.shape)


@TRITON
@pytest.mark.parametrize(
    ("channels", "dtype", "hidden", "capability", "shared", "reason"),
    [
        (96, torch.bfloat16, 384, 9, 227, None),
        (256, torch.float32, 1024, 8, 163, None),
        (128, torch.float16, 512, 8, 99, None),
        (192, torch.float16, 768, 8, 99, "160 KiB of shared memory for 192 channels"),
        (384, torch.float16, 1536, 9, 227, "number of channels in .* got 384"),
        (224, torch.float16, 896, 9, 227, "number of channels in .* got 224"),
        (96, torch.float16, 100, 9, 227, "multiple of 32 features, got 100"),
        (96, torch.float64, 384, 9, 227, "got float64"),
        (96, torch.float16, 384, 7, 227, "compute capability 8.0"),
    ],
)
def test_unsupported_reason_for_matrix_products(
    monkeypatch, channels, dtype, hidden, capability, shared, reason
):
    properties = SimpleNamespace(major=capability, shared_memory_per_block_optin=shared * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    found = support.unsupported_product_reason(OnCuda(channels), dtype, hidden)
    assert found is reason is None or re.fullmatch(f"needs .*{reason}.*", found)


@TRITON
@pytest.mark.parametrize(
    ("channels", "dtype", "shared", "reason"),
    [
        (384, torch.bfloat16, 227, None),
        (768, torch.float16, 227, None),
        (768, torch.float16, 163, "227 KiB of shared memory for 768 channels"),
        (384, torch.float32, 227, "number of channels in .* got 384"),
        (1024, torch.float16, 227, "number of channels in .* got 1024"),
        (96, torch.float32, 99, None),
    ],
)
def test_unsupported_reason_for_linear_layers(monkeypatch, channels, dtype, shared, reason):
    properties = SimpleNamespace(major=9, shared_memory_per_block_optin=shared * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    x, features = OnCuda(channels), 3 * channels
    found = support.unsupported_linear_reason(x, dtype, features)
    assert found is reason is None or re.fullmatch(f"needs .*{reason}.*", found)
    found = support.unsupported_sum_reason(x, dtype, features)
    assert (found is None) == (reason is None and channels <= support.MOST_SUMMED)


@TRITON
def test_gpu_that_does_not_tell_its_shared_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9))
    assert support.unsupported_product_reason(OnCuda(96), torch.float16, 384) is None
    found = support.unsupported_product_reason(OnCuda(192), torch.float16, 768)
    assert found == "needs a GPU with 160 KiB of shared memory for 192 channels"
    found = support.unsupported_linear_reason(OnCuda(384), torch.float16, 1536)
    assert found == "needs a GPU with 227 KiB of shared memory for 384 channels"


@TRITON
def test_unsupported_reason_for_norms(monkeypatch):
    properties = SimpleNamespace(major=9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert support.unsupported_reason(OnCuda(4096), torch.bfloat16) is None
    assert (
        support.unsupported_reason(OnCuda(4097), torch.bfloat16)
        == "needs 1..4096 channels, got 4097"
    )
