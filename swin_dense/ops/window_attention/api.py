"""Shifted-window multi-head self-attention: one function that checks and chooses.

=============  ==========================================================================
``impl``       what runs
=============  ==========================================================================
``reference``  plain PyTorch (:mod:`~.reference`), any device
``sdpa``       PyTorch's fused attention (:mod:`~.sdpa`), any device
``cpu``        one gather in and one out (:mod:`~.cpu`), CPU; plain PyTorch
               where it is traced or drops attention weights
``triton``     our fused kernels (:mod:`~.triton.op`): CUDA devices
               of capability 8.0 or later, windows of 5 to 16, heads of 32 channels,
               fp32, fp16 or bf16, no dropout of attention weights
``auto``       ``sdpa`` on CUDA, ``cpu`` on a CPU, ``reference`` elsewhere. Not ``triton``:
               its speed is not measured yet
=============  ==========================================================================

What 'auto' chose is logged at debug level, once for each choice. While torch.compile or
torch.export traces, all but ``triton`` are written out by :mod:`~.compiled`,
whose graph serves maps of any size.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
from torch import Tensor

from swin_dense.ops.window_attention import compiled, cpu, reference, sdpa
from swin_dense.ops.window_attention.triton import op as triton_attention

_IMPLEMENTATIONS = {
    "reference": reference.shifted_window_attention,
    "sdpa": sdpa.shifted_window_attention,
    "cpu": cpu.shifted_window_attention,
    "triton": triton_attention.shifted_window_attention,
}

# What 'auto' tries on CUDA, in this order; the first that can run does.
_ON_CUDA: tuple[str, ...] = ("sdpa",)

logger = logging.getLogger(__name__)


def check_impl(impl: str) -> None:
    """Raise ValueError unless ``impl`` is 'auto' or an implementation that is installed."""
    if impl != "auto" and impl not in _IMPLEMENTATIONS:
        raise ValueError(
            f"attn_impl must be one of auto, {', '.join(_IMPLEMENTATIONS)}, got {impl!r}"
        )
    if impl == "triton" and triton_attention.missing():
        raise ValueError(
            f"attn_impl='triton' {triton_attention.missing()}; or use attn_impl='auto'"
        )


def choose(qkv: Tensor, num_heads: int, window_size: int, dropout_p: float) -> str:
    """Name of the implementation that 'auto' stands for with these arguments."""
    if not qkv.is_cuda:
        return "cpu" if qkv.device.type == "cpu" else "reference"
    for impl in _ON_CUDA:
        if impl != "triton" or not triton_attention.unfit(qkv, num_heads, window_size, dropout_p):
            return impl
    return "sdpa"


@lru_cache
def _announce(impl: str, device: str, dtype: torch.dtype, num_heads: int, window_size: int) -> None:
    logger.debug(
        "attn_impl='auto' is %r for %s %s, window %d, %d heads",
        impl, device, dtype, window_size, num_heads,
    )  # fmt: skip


def shifted_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    *,
    num_heads: int,
    window_size: int,
    shift_size: int = 0,
    scale: float,
    dropout_p: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    """Self-attention within (shifted) windows of a map of any size (paper equation 4).

    Args:
        qkv: ``(B, H, W, 3 * C)``: queries, keys and values of every token, each C channels in
            ``num_heads`` groups. H, W >= 1; neither needs to be a multiple of the window.
        qkv_bias: ``(3 * C,)``, what q, k and v of a padded token are; None for zero.
        position_bias: ``(num_heads, N, N)``, added to the scores of every window; None for none.
        num_heads: number of heads; C is a multiple of it.
        window_size: side M of a window in tokens; N = M * M.
        shift_size: cyclic shift in tokens, 0 <= shift < M.
        scale: factor of the dot products.
        dropout_p: probability that an attention weight is dropped.
        impl: see the table at the top of this module. One asked for by name is used or raises.

    Returns:
        ``(B, H, W, C)``, heads side by side.

    Raises:
        ValueError: shapes, shift or implementation are not as above.
    """
    check_impl(impl)
    _check_input(qkv, qkv_bias, position_bias, num_heads, window_size, shift_size)
    if impl == "auto":
        impl = choose(qkv, num_heads, window_size, dropout_p)
        # Logging would break the graph of torch.compile.
        if not torch.compiler.is_compiling():
            _announce(impl, qkv.device.type, qkv.dtype, num_heads, window_size)
    arguments = qkv, qkv_bias, position_bias, num_heads, window_size, shift_size, scale, dropout_p
    if torch.compiler.is_compiling() and impl != "triton":
        return compiled.shifted_window_attention(*arguments, fused=impl == "sdpa")
    return _IMPLEMENTATIONS[impl](*arguments)


def _check_input(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
) -> None:
    if qkv.ndim != 4 or qkv.shape[-1] % (3 * num_heads):
        raise ValueError(
            f"qkv must be (B, H, W, 3 * C) with C a multiple of num_heads={num_heads}, "
            f"got {tuple(qkv.shape)}"
        )
    if qkv_bias is not None and qkv_bias.shape != qkv.shape[-1:]:
        raise ValueError(f"qkv_bias must be ({qkv.shape[-1]},), got {tuple(qkv_bias.shape)}")
    expected = (num_heads, window_size**2, window_size**2)
    if position_bias is not None and position_bias.shape != expected:
        raise ValueError(f"position_bias must be {expected}, got {tuple(position_bias.shape)}")
    if not 0 <= shift_size < window_size:
        raise ValueError(f"shift_size must be in [0, {window_size}), got {shift_size}")
