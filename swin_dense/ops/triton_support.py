"""Where Triton can run, and what every launch of a kernel needs; does not import Triton itself."""

import os
from functools import lru_cache
from importlib.util import find_spec

import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAJOR_CAPABILITY = 8

# Read once: torch.compile does not see through either.
_INSTALLED = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def unavailable_reason() -> str | None:
    """Why no kernel can run in this process, as 'needs ...'; None if one can."""
    return None if _INSTALLED else "needs the package triton (Linux: pip install triton)"


def unsupported_dtype_reason(*dtypes: torch.dtype) -> str | None:
    """Why the kernels cannot compute in these precisions, as 'needs ...'; None if they can."""
    for dtype in dtypes:
        if dtype not in DTYPES:
            return f"needs float32, float16 or bfloat16, got {str(dtype).removeprefix('torch.')}"
    return None


def unsupported_device_reason(device: torch.device) -> str | None:
    """Why Triton cannot run on tensors of a device, as 'needs ...'; None if it can."""
    if device.type != "cuda":
        return None if _INTERPRETED else f"needs a CUDA device, got a tensor on {device}"
    # Not get_device_capability(), which torch.compile would put into its graph.
    if torch.cuda.get_device_properties(device).major < MAJOR_CAPABILITY:
        return "needs a GPU of compute capability 8.0 (Ampere) or later"
    return None


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    # Without a GPU there is Triton's interpreter, which runs one program after the other.
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def fp32_precision() -> str:
    """How kernels multiply fp32 numbers: 'tf32' or 'ieee', as PyTorch's own matrix products do."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def device_guard(device: torch.device) -> torch.cuda.device:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(device if device.type == "cuda" else -1)
