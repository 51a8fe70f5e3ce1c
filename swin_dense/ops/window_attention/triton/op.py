"""Shifted-window attention as one fused operator, ``swin_dense::shifted_window_attention``.

The arithmetic is in :mod:`~.triton.kernels`. This module declares the
operator and its gradient to PyTorch, so that torch.compile and torch.export see one node, and
says where it can run. Importing it does not import Triton.

For backward it keeps qkv and the position bias, which the linear layer and the parameters keep
anyway: no scores, no weights, no copies of q, k and v.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op

from swin_dense.ops.dispatch import is_eager, out_of_graphs

HEAD_DIM = 32
WINDOW_SIZES = range(5, 17)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAJOR_CAPABILITY = 8

# Read once: torch.compile does not see through either.
_INSTALLED = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def missing() -> str | None:
    """Why the operator can run nowhere in this process; None if it can somewhere."""
    return None if _INSTALLED else "needs the package triton (Linux: pip install triton)"


def unfit(qkv: Tensor, num_heads: int, window_size: int, dropout_p: float) -> str | None:
    """Why the operator cannot run on these arguments, as 'needs ...'; None if it can."""
    head_dim = qkv.shape[-1] // 3 // num_heads
    if missing() is not None:
        return missing()
    if head_dim != HEAD_DIM:
        return f"needs heads of {HEAD_DIM} channels, got {head_dim}"
    if window_size not in WINDOW_SIZES:
        return f"needs a window size in {WINDOW_SIZES[0]}..{WINDOW_SIZES[-1]}, got {window_size}"
    if qkv.dtype not in DTYPES:
        return f"needs float32, float16 or bfloat16, got {str(qkv.dtype).removeprefix('torch.')}"
    if dropout_p > 0:
        return f"needs attention without dropout, got a rate of {dropout_p}"
    return unfit_device(qkv.device)


def unfit_device(device: torch.device) -> str | None:
    """Why Triton cannot run on tensors of a device, as 'needs ...'; None if it can."""
    if device.type != "cuda":
        return None if _INTERPRETED else f"needs a CUDA device, got a tensor on {device}"
    # Not get_device_capability(), which torch.compile would put into its graph.
    if torch.cuda.get_device_properties(device).major < MAJOR_CAPABILITY:
        return "needs a GPU of compute capability 8.0 (Ampere) or later"
    return None


def shifted_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """Equal to :func:`.reference.shifted_window_attention` up to rounding.

    Products of fp16 and bf16 are summed in fp32, in which the softmax is too. The result and all
    gradients are the same bits at every call on one machine. Arguments and result are those of
    :func:`~.api.shifted_window_attention`.

    Raises:
        ValueError: the operator cannot run on these arguments, see :func:`unfit`.
    """
    reason = unfit(qkv, num_heads, window_size, dropout_p)
    if reason is not None:
        raise ValueError(f"attn_impl='triton' {reason}; use attn_impl='auto'")
    attend = _attend_directly if _is_direct(qkv, qkv_bias, position_bias) else _attend
    return attend(qkv, qkv_bias, position_bias, num_heads, window_size, shift_size, scale)


def _is_direct(*tensors: Tensor | None) -> bool:
    """Whether nothing looks on that should see an operator: calling one takes much longer."""
    return is_eager(*tensors) and not torch._C._len_torch_dispatch_stack()


def _forward(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
    scale: float,
) -> Tensor:
    from swin_dense.ops.window_attention.triton import launch as triton_launch

    return triton_launch.forward(
        qkv.contiguous(),
        _contiguous(qkv_bias),
        _contiguous(position_bias),
        num_heads,
        window_size,
        shift_size,
        scale,
    )


def _backward(
    d_out: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
    scale: float,
    want_qkv_bias: bool,
    want_position_bias: bool,
) -> list[Tensor]:
    """Gradients of qkv and of those of the two biases that are wanted, in this order."""
    from swin_dense.ops.window_attention.triton import launch as triton_launch

    d_qkv, d_qkv_bias, d_position_bias = triton_launch.backward(
        d_out.contiguous(),
        qkv.contiguous(),
        _contiguous(qkv_bias),
        _contiguous(position_bias),
        num_heads,
        window_size,
        shift_size,
        scale,
        want_qkv_bias,
        want_position_bias,
    )
    biases = [(d_qkv_bias, qkv_bias), (d_position_bias, position_bias)]
    return [d_qkv, *(d.to(x.dtype) for d, x in biases if d is not None and x is not None)]


def _contiguous(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.contiguous()


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    tensors, ctx.numbers = inputs[:3], inputs[3:]
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, d_out: Tensor, compute: Callable[..., list[Tensor]]) -> tuple:
    """What autograd asks for: a gradient or None for each argument of the forward function."""
    _, *wanted = ctx.needs_input_grad[:3]
    d_qkv, *found = compute(d_out, *ctx.saved_tensors, *ctx.numbers, *wanted)
    biases = (found.pop(0) if want else None for want in wanted)
    return d_qkv, *biases, *(None for _ in ctx.numbers)


class _Attend(torch.autograd.Function):
    """The operator without its costs of dispatch."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:  # type: ignore[override]
        _keep(ctx, inputs, output := _forward(*inputs))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple:  # type: ignore[override]
        return _gradients(ctx, d_out, _backward)


_attend_directly = out_of_graphs(_Attend.apply)
_attend = custom_op("swin_dense::shifted_window_attention", _forward, mutates_args=())
_attend_backward = custom_op(
    "swin_dense::shifted_window_attention_backward", _backward, mutates_args=()
)
_attend.register_autograd(
    lambda ctx, d_out: _gradients(ctx, d_out, _attend_backward), setup_context=_keep
)


@_attend.register_fake
def _fake_forward(qkv: Tensor, *_: Any) -> Tensor:
    return qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)


@_attend_backward.register_fake
def _fake_backward(
    d_out: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
    scale: float,
    want_qkv_bias: bool,
    want_position_bias: bool,
) -> list[Tensor]:
    biases = [(qkv_bias, want_qkv_bias), (position_bias, want_position_bias)]
    wanted = [bias for bias, want in biases if want and bias is not None]
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (qkv, *wanted)]
