"""What versions of PyTorch name differently, from 2.1 on.

The rest of the package takes from here what PyTorch 2.1 does not have under its present name.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import torch
from torch import nn

VERSION: tuple[int, ...] = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))


def too_old(*needed: int) -> str | None:
    """Why something that needs this version cannot work, as 'needs ...'; None if it can."""
    if needed <= VERSION:
        return None
    return f"needs PyTorch {'.'.join(map(str, needed))} or later, this is {torch.__version__}"


if VERSION >= (2, 3):
    from torch.compiler import is_compiling
    from torch.nn.attention import SDPBackend, sdpa_kernel
else:

    def is_compiling() -> bool:
        """Whether torch.compile or torch.export traces; torch.compile skips us: see below."""
        return False

    class SDPBackend(Enum):  # type: ignore[no-redef]
        """Implementations of ``scaled_dot_product_attention``."""

        MATH = "math"
        FLASH_ATTENTION = "flash"
        EFFICIENT_ATTENTION = "mem_efficient"

    @contextlib.contextmanager
    def sdpa_kernel(backends: Sequence[SDPBackend]) -> Iterator[None]:  # type: ignore[misc]
        """Within it, ``scaled_dot_product_attention`` takes one of these."""
        enabled = {f"enable_{one.value}": one in backends for one in SDPBackend}
        with torch.backends.cuda.sdp_kernel(**enabled):
            yield


if VERSION >= (2, 4):
    from torch import get_autocast_dtype, is_autocast_enabled
else:

    def is_autocast_enabled(device_type: str) -> bool:  # type: ignore[no-redef]
        """Whether autocast is on for a kind of device."""
        if device_type == "cpu":
            return torch.is_autocast_cpu_enabled()
        return device_type == "cuda" and torch.is_autocast_enabled()

    def get_autocast_dtype(device_type: str) -> torch.dtype:
        """The precision of autocast on a kind of device, 'cpu' or 'cuda'."""
        cpu = device_type == "cpu"
        return torch.get_autocast_cpu_dtype() if cpu else torch.get_autocast_gpu_dtype()


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The precision of autocast on a kind of device; None where autocast is off."""
    return get_autocast_dtype(device_type) if is_autocast_enabled(device_type) else None


def fp32_settings() -> tuple[Any, Any]:
    """How CUDA computes in fp32: matrix products, and convolutions; equal if they do the same."""
    backends: Any = torch.backends
    if VERSION >= (2, 9):  # asking for the name itself raises an error before
        return backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
    return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32


def products_in_tf32() -> bool:
    """Whether CUDA multiplies fp32 matrices in TF32."""
    return fp32_settings()[0] in (True, "tf32")


def register_load_state_dict_pre_hook(module: nn.Module, hook: Callable[..., None]) -> None:
    """Call ``hook(module, state_dict, prefix, ...)`` before a module loads its parameters."""
    if VERSION >= (2, 5):
        module.register_load_state_dict_pre_hook(hook)
    else:
        module._register_load_state_dict_pre_hook(hook, with_module=True)
