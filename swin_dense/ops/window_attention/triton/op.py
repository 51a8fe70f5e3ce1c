"""Shifted-window attention as one fused operator, ``swin_dense::shifted_window_attention``.

The arithmetic is in :mod:`.kernels`. This module says where they can run, and declares the operator
and its gradient to PyTorch, so that torch.compile and torch.export see one node. Importing it does
not import Triton.

For backward it keeps qkv and the position bias, which the linear layer and the parameters keep
anyway: no scores, no weights, no copies of q, k and v.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from swin_dense.ops import triton_support
from swin_dense.ops.window_attention.windows import WindowSpec

HEAD_DIMS = (16, 32, 64)
WINDOW_SIZES = range(5, 17)
# GPUs of capability 8.0 or later give a program at least 99 KiB of shared memory (8.6, 8.9, 12.0),
# enough for all but windows of 13 to 16 with heads of 64 channels in fp32 without TF32. With TF32
# they are refused too, as torch.compile does not see through the setting.
_LARGE_HEAD_DIM, _LARGE_WINDOW_SIZE, _LARGE_SHARED_MEMORY = 64, 13, 136 * 1024


def unsupported_reason(
    qkv: Tensor, num_heads: int, window_size: int, dropout_p: float
) -> str | None:
    """Why the operator cannot run on these arguments, as 'needs ...'; None if it can."""
    if reason := triton_support.unavailable_reason():
        return reason
    head_dim = qkv.shape[-1] // 3 // num_heads
    if head_dim not in HEAD_DIMS:
        return f"needs heads of {', '.join(map(str, HEAD_DIMS))} channels, got {head_dim}"
    if window_size not in WINDOW_SIZES:
        return f"needs a window size in {WINDOW_SIZES[0]}..{WINDOW_SIZES[-1]}, got {window_size}"
    if reason := triton_support.unsupported_dtype_reason(qkv.dtype):
        return reason
    if dropout_p > 0:
        return f"needs attention without dropout, got a rate of {dropout_p}"
    if reason := triton_support.unsupported_device_reason(qkv.device):
        return reason
    large = head_dim == _LARGE_HEAD_DIM and window_size >= _LARGE_WINDOW_SIZE
    if large and qkv.dtype == torch.float32 and qkv.is_cuda:
        limit = triton_support.shared_memory(qkv.device)
        if limit < _LARGE_SHARED_MEMORY:
            return (
                f"needs {_LARGE_SHARED_MEMORY} bytes of shared memory for windows of {window_size} "
                f"and heads of {head_dim} channels in float32, and this GPU has {limit}: "
                "smaller windows, fewer channels a head, float16 or bfloat16 fit"
            )
    return None


def kernels() -> ModuleType:
    """The backend: its ``forward`` and ``backward`` launch the kernels. Imports Triton."""
    from swin_dense.ops.window_attention.triton import launch

    return launch


# PyTorch's operators take numbers one by one, and have no optional results.
def _forward_operator(
    qkv: Tensor, qkv_bias: Tensor | None, position_bias: Tensor | None,
    num_heads: int, window_size: int, shift_size: int, scale: float,
) -> Tensor:  # fmt: skip
    spec = WindowSpec(num_heads, window_size, shift_size, scale)
    return kernels().forward(qkv, qkv_bias, position_bias, spec)


def _backward_operator(
    d_out: Tensor, qkv: Tensor, qkv_bias: Tensor | None, position_bias: Tensor | None,
    num_heads: int, window_size: int, shift_size: int, scale: float,
    want_qkv_bias: bool, want_position_bias: bool,
) -> list[Tensor]:  # fmt: skip
    """The gradients that are wanted, in their order."""
    spec = WindowSpec(num_heads, window_size, shift_size, scale)
    wanted = (want_qkv_bias, want_position_bias)
    found = kernels().backward(d_out, qkv, qkv_bias, position_bias, spec, *wanted)
    return [gradient for gradient in found if gradient is not None]


_NAME = "swin_dense::shifted_window_attention"
# PyTorch before 2.7 cannot read it from the annotations.
_ARGUMENTS = (
    "Tensor qkv, Tensor? qkv_bias, Tensor? position_bias, "
    "int num_heads, int window_size, int shift_size, float scale"
)


def _declare() -> Any:
    """Declare the operator and its gradient to PyTorch; returns the operator."""
    operator = torch.library.custom_op(
        _NAME, _forward_operator, mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor"
    )
    gradients = torch.library.custom_op(
        f"{_NAME}_backward",
        _backward_operator,
        mutates_args=(),
        schema=f"(Tensor d_out, {_ARGUMENTS}, bool want_qkv_bias, bool want_position_bias)"
        " -> Tensor[]",
    )

    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        tensors, ctx.sizes = inputs[:3], inputs[3:]
        ctx.save_for_backward(*tensors)

    def backward(ctx: Any, d_out: Tensor) -> tuple:
        _, *wanted = ctx.needs_input_grad[:3]
        d_qkv, *found = gradients(d_out, *ctx.saved_tensors, *ctx.sizes, *wanted)
        return d_qkv, *(found.pop(0) if want else None for want in wanted), *[None] * len(ctx.sizes)

    operator.register_autograd(backward, setup_context=setup_context)
    operator.register_fake(_fake_forward)
    gradients.register_fake(_fake_gradients)
    return operator


def _fake_forward(qkv: Tensor, *_: Any) -> Tensor:
    return qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)


def _fake_gradients(d_out: Tensor, qkv: Tensor, *others: Any) -> list[Tensor]:
    biases = zip(others[:2], others[-2:], strict=True)
    wanted = (bias for bias, want in biases if want and bias is not None)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (qkv, *wanted)]


# Where PyTorch is too old for the kernels, nobody calls it.
shifted_window_attention: Any = _declare() if triton_support.old_pytorch() is None else None
