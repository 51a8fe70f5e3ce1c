"""What the fused kernels of a block can run on. Importing this does not import Triton."""

import torch
from torch import Tensor

from swin_dense.ops import triton_support

LARGEST_NORM = 4096
# Sums of two powers of 2, which the sides of a tile are.
PRODUCT_WIDTHS = (32, 64, 96, 128, 160, 192, 256)
# Widths of linear layers that are kernels too, in 16 bits, and the shared memory that they need.
WIDE_WIDTHS = (384, 512, 768)
WIDE_SHARED_MEMORY = 227 * 1024
# Up to so many channels, a program has registers for the gradients of all channels of its rows.
MOST_SUMMED = 384
HIDDEN_MULTIPLE = 32
# Widths whose tiles fit into the shared memory of any GPU, and what wider ones need, in bytes.
NARROW = 128
SHARED_MEMORY = 160 * 1024


def unsupported_reason(x: Tensor, dtype: torch.dtype) -> str | None:
    """Why rows ``x``, ``(T, C)``, cannot be normalised to ``dtype``, as 'needs ...', or None."""
    if reason := triton_support.unavailable_reason():
        return reason
    if x.dim() != 2:
        return f"needs rows of channels, (T, C), got a shape of {tuple(x.shape)}"
    if not 0 < x.shape[1] <= LARGEST_NORM:
        return f"needs 1..{LARGEST_NORM} channels, got {x.shape[1]}"
    if reason := triton_support.unsupported_dtype_reason(dtype, x.dtype):
        return reason
    return triton_support.unsupported_device_reason(x.device)


def unsupported_product_reason(x: Tensor, dtype: torch.dtype, features: int) -> str | None:
    """Why a linear layer of ``features`` outputs cannot be fused with rows ``x``, or None."""
    if x.dim() == 2 and x.shape[1] not in PRODUCT_WIDTHS:
        return f"needs a number of channels in {PRODUCT_WIDTHS}, got {x.shape[1]}"
    if features < 1 or features % HIDDEN_MULTIPLE:
        return f"needs a multiple of {HIDDEN_MULTIPLE} features, got {features}"
    reason = unsupported_reason(x, dtype)
    if reason is None and x.shape[1] > NARROW and _lacks(x, SHARED_MEMORY):
        return f"needs a GPU with 160 KiB of shared memory for {x.shape[1]} channels"
    return reason


def unsupported_linear_reason(x: Tensor, dtype: torch.dtype, features: int) -> str | None:
    """Why a linear layer of rows ``x`` cannot be a kernel with what surrounds it, or None."""
    if x.shape[-1] not in WIDE_WIDTHS or dtype.itemsize > 2:
        return unsupported_product_reason(x, dtype, features)
    if features < 1 or features % HIDDEN_MULTIPLE:
        return f"needs a multiple of {HIDDEN_MULTIPLE} features, got {features}"
    reason = unsupported_reason(x, dtype)
    if reason is None and _lacks(x, WIDE_SHARED_MEMORY):
        return f"needs a GPU with 227 KiB of shared memory for {x.shape[1]} channels"
    return reason


def unsupported_sum_reason(x: Tensor, dtype: torch.dtype, features: int) -> str | None:
    """Why a product with ``features`` cannot be summed for whole rows ``x`` at once, or None."""
    if x.shape[-1] > MOST_SUMMED:
        return f"needs {MOST_SUMMED} channels at most, got {x.shape[-1]}"
    return unsupported_linear_reason(x, dtype, features)


def _lacks(x: Tensor, shared_memory: int) -> bool:
    return x.is_cuda and triton_support.shared_memory(x.device) < shared_memory
