"""What the fused kernels of a block can run on. Importing this does not import Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from swin_dense.ops.window_attention.triton.op import DTYPES, missing, unfit_device

LARGEST_NORM = 4096
# Sums of two powers of 2, which the sides of a tile are.
PRODUCT_WIDTHS = (32, 64, 96, 128, 160, 192, 256)
HIDDEN_MULTIPLE = 32
# Widths whose tiles fit into the shared memory of any GPU, and what wider ones need, in bytes.
NARROW = 128
SHARED_MEMORY = 160 * 1024


def takes_triton(impl: str, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether rows ``x``, ``(T, C)``, with products in ``dtype`` are for our kernels.

    Only where they are asked for: their speed is not measured yet, so 'auto' does not take them.
    """
    return impl == "triton" and unfit(x, dtype) is None


def unfit(x: Tensor, dtype: torch.dtype) -> str | None:
    """Why rows ``x``, ``(T, C)``, cannot be normalised to ``dtype``, as 'needs ...', or None."""
    if missing() is not None:
        return missing()
    if x.dim() != 2:
        return f"needs rows of channels, (T, C), got a shape of {tuple(x.shape)}"
    if not 0 < x.shape[1] <= LARGEST_NORM:
        return f"needs 1..{LARGEST_NORM} channels, got {x.shape[1]}"
    for name in (dtype, x.dtype):
        if name not in DTYPES:
            return f"needs float32, float16 or bfloat16, got {str(name).removeprefix('torch.')}"
    return unfit_device(x.device)


def unfit_product(x: Tensor, dtype: torch.dtype, features: int) -> str | None:
    """Why a linear layer of ``features`` outputs cannot be fused with rows ``x``, or None."""
    if x.dim() == 2 and x.shape[1] not in PRODUCT_WIDTHS:
        return f"needs a number of channels in {PRODUCT_WIDTHS}, got {x.shape[1]}"
    if features < 1 or features % HIDDEN_MULTIPLE:
        return f"needs a multiple of {HIDDEN_MULTIPLE} features, got {features}"
    reason = unfit(x, dtype)
    if reason is None and x.is_cuda and x.shape[1] > NARROW:
        properties = torch.cuda.get_device_properties(x.device)
        shared = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
        if shared < SHARED_MEMORY:
            return f"needs a GPU with 160 KiB of shared memory for {x.shape[1]} channels"
    return reason
