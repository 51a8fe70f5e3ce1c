"""Where Triton can run, and what every launch of a kernel needs; does not import Triton itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

import torch

from swin_dense.ops.torch_versions import is_compiling, products_in_tf32, too_old

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAJOR_CAPABILITY = 8

# Read once: torch.compile does not see through either.
_INSTALLED = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")
# Properties of the GPU that kernels are compiled for while none is run.
_compiling_for: ContextVar[Any] = ContextVar("compiling_for", default=None)


@contextmanager
def compiling_for(gpu: Any) -> Iterator[None]:
    """Kernels may be launched on tensors of any device: Triton's driver compiles, but runs none.

    ``gpu`` has what launches ask of ``torch.cuda.get_device_properties``.
    """
    token = _compiling_for.set(gpu)
    try:
        yield
    finally:
        _compiling_for.reset(token)


def compiles_only() -> bool:
    """Whether kernels are only compiled, so that tensors without numbers do: see the above."""
    # torch.compile does not trace context variables, and never runs within this context.
    return not is_compiling() and _compiling_for.get() is not None


def interpreted() -> bool:
    """Whether Triton interprets kernels in this process."""
    return _INTERPRETED


def old_pytorch() -> str | None:
    """Why this PyTorch is too old for the kernels, as 'needs ...'; None if it is not."""
    return too_old(2, 6)  # which came with Triton 3.2


def unavailable_reason() -> str | None:
    """Why no kernel can run in this process, as 'needs ...'; None if one can."""
    missing = None if _INSTALLED else "needs the package triton (Linux: pip install triton)"
    return old_pytorch() or missing


def unsupported_dtype_reason(*dtypes: torch.dtype) -> str | None:
    """Why the kernels cannot compute in these precisions, as 'needs ...'; None if they can."""
    for dtype in dtypes:
        if dtype not in DTYPES:
            return f"needs float32, float16 or bfloat16, got {str(dtype).removeprefix('torch.')}"
    return None


def unsupported_device_reason(device: torch.device) -> str | None:
    """Why Triton cannot run on tensors of a device, as 'needs ...'; None if it can."""
    if compiles_only():
        return None
    if device.type != "cuda":
        return None if _INTERPRETED else f"needs a CUDA device, got a tensor on {device}"
    # Not get_device_capability(), which torch.compile would put into its graph.
    if torch.cuda.get_device_properties(device).major < MAJOR_CAPABILITY:
        return "needs a GPU of compute capability 8.0 (Ampere) or later"
    return None


def gpu_properties(device: torch.device) -> Any:
    """What ``torch.cuda.get_device_properties`` returns, or what kernels are compiled for."""
    if compiles_only():
        return _compiling_for.get()
    return torch.cuda.get_device_properties(device)


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    # Without a GPU there is Triton's interpreter, which runs one program after the other.
    if device.type != "cuda" and not compiles_only():
        return 1
    return gpu_properties(device).multi_processor_count


def major_capability(device: torch.device) -> int:
    """Major compute capability of a GPU; 0 of no GPU."""
    if device.type != "cuda" and not compiles_only():
        return 0
    return gpu_properties(device).major


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program on a GPU may have."""
    # ROCm does not tell: AMD's multiprocessors have 64 KiB.
    return getattr(gpu_properties(device), "shared_memory_per_block_optin", 64 * 1024)


def fp32_precision() -> str:
    """How kernels multiply fp32 numbers: 'tf32' or 'ieee', as PyTorch's own matrix products do."""
    return "tf32" if products_in_tf32() else "ieee"


def device_guard(device: torch.device) -> torch.cuda.device:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(device if device.type == "cuda" and not compiles_only() else -1)
