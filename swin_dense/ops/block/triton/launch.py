"""Launches the fused kernels of a Swin block: functions on rows of channels, without autograd.

Tensors of T tokens are ``(T, C)``. The residual stream (``x``, ``m`` and their gradients) is in
fp32 or in the precision of the products, ``dtype``: fp32, fp16 or bf16. ``scale`` is None or the
factor of each image in stochastic depth, ``(B,)`` fp32 (0, or 1 / the rate of survival): image b
has rows ``b * T / B`` and on. Norms and sums are in fp32, as are gradients of norms' weights and
biases. All results are the same bits at every call on one machine.

Every function raises ValueError where it cannot run, see
:mod:`~.triton.support`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from swin_dense.ops.block.triton import linear_kernels, mlp_kernels, norm_kernels
from swin_dense.ops.block.triton.support import unsupported_product_reason, unsupported_reason
from swin_dense.ops.triton_support import device_guard, fp32_precision, multiprocessors

# Warps of backward programs on a multiprocessor: what its registers hold at 64 a thread.
_WARPS_PER_SM = 32


def norm_schedule(direction: str, channels: int) -> dict[str, int]:
    """Tile and warps of a norm's kernel: 16 numbers a thread forward, 8 backward.

    Backward holds two sums of the tile's size; chosen by compiling for sm_90 without a GPU, so
    that no register is spilled. The speed is not measured.
    """
    columns = triton.next_power_of_2(channels)
    numbers = max(2048 if direction == "forward" else 1024, columns)
    return {
        "COLUMNS": columns,
        "ROWS": numbers // columns,
        "num_warps": max(4, numbers // (512 if direction == "forward" else 256)),
    }


def mlp_schedule(direction: str, channels: int, hidden: int, dtype: torch.dtype) -> dict[str, int]:
    """Tiles, warps and stages of an MLP's kernel.

    Chosen by compiling for sm_90 without a GPU: the largest that leave little or nothing in local
    memory. Their speed is not measured.
    """
    rows, chunk, warps, stages = 64, 32, 8, 2
    if dtype == torch.float32:  # tensor cores or not
        rows, stages = 32, 1
    elif direction == "forward" and channels > 128:
        rows = 128
    elif direction == "forward":
        chunk, warps = 64, 4
    elif channels <= 128:
        warps = 4
    if hidden % chunk:
        chunk = 32
    sizes = {"HIDDEN": hidden, "ROWS": rows, "CHUNK": chunk}
    return {**_two_tiles(channels), **sizes, "num_warps": warps, "num_stages": stages}


def linear_schedule(channels: int, features: int, dtype: torch.dtype) -> dict[str, int]:
    """Tiles, warps and stages of a linear layer's kernel; chosen as an MLP's are."""
    rows, stages = (32, 1) if dtype == torch.float32 else (128, 2)
    chunk = 64 if channels <= 128 and features % 64 == 0 and rows == 128 else 32
    sizes = {"FEATURES": features, "ROWS": rows, "CHUNK": chunk}
    return {**_two_tiles(channels), **sizes, "num_warps": 8, "num_stages": stages}


def _two_tiles(channels: int) -> dict[str, int]:
    """The largest power of 2 that leaves something, and what it leaves."""
    first = 1 << ((channels - 1).bit_length() - 1)
    return {"C_1": first, "C_2": channels - first}


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm of ``x``, ``(T, C)``, in ``dtype``."""
    _check("layer_norm", unsupported_reason(x, dtype))
    xn = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    _add_layer_norm(x, None, None, weight, bias, eps, None, xn)
    return xn


def add_layer_norm(
    x: Tensor, y: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``m = x + scale * y`` in the precision of ``x``, and LayerNorm of ``m`` in ``dtype``."""
    _check("add_layer_norm", unsupported_reason(x, dtype))
    m = torch.empty_like(x, memory_format=torch.contiguous_format)
    mn = torch.empty_like(m, dtype=dtype)
    _add_layer_norm(x, y, scale, weight, bias, eps, m, mn)
    return m, mn


def add(x: Tensor, y: Tensor, scale: Tensor | None) -> Tensor:
    """``x + scale * y`` in the precision of ``x``."""
    _check("add", unsupported_reason(x, y.dtype))
    m = torch.empty_like(x, memory_format=torch.contiguous_format)
    _add_layer_norm(x, y, scale, None, None, 0.0, m, None)
    return m


def _add_layer_norm(
    x: Tensor, y: Tensor | None, scale: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    eps: float, m: Tensor | None, mn: Tensor | None,
) -> None:  # fmt: skip
    schedule = norm_schedule("forward", x.shape[1])
    blocks = max(1, triton.cdiv(x.shape[0], schedule["ROWS"]))
    with device_guard(x.device):
        norm_kernels.add_layer_norm[(blocks,)](
            *_contiguous(x, y, scale, weight, bias), m, mn, *_sizes(x, scale), float(eps),
            C=x.shape[1], **schedule,
        )  # fmt: skip


def layer_norm_backward(
    d_xn: Tensor, x: Tensor, weight: Tensor, eps: float, d_residual: Tensor | None,
    scale: Tensor | None, dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of a norm's input and parameters, and what the branch below it receives.

    Args:
        d_xn: gradient of the norm's output, ``(T, C)``.
        x: the norm's input, ``(T, C)``.
        weight: the norm's weight, ``(C,)``.
        eps: the norm's.
        d_residual: gradient of ``x`` by another way, ``(T, C)``, or None.
        scale: factors of the images in the branch that was added to make ``x``, or None.
        dtype: precision of the branch, or None if there is none.

    Returns:
        ``dx`` in the precision of ``x``, ``d_weight`` and ``d_bias`` in fp32, ``(C,)``, and
        ``d_branch = scale * dx`` in ``dtype``: None without one, ``dx`` itself if equal.
    """
    _check("layer_norm_backward", unsupported_reason(x, dtype or x.dtype))
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    d_branch = None
    if dtype is not None and (scale is not None or dtype != x.dtype):
        d_branch = torch.empty_like(dx, dtype=dtype)
    schedule = norm_schedule("backward", x.shape[1])
    blocks = max(1, triton.cdiv(x.shape[0], schedule["ROWS"]))
    programs = min(blocks, _WARPS_PER_SM // schedule["num_warps"] * multiprocessors(x.device))
    sums = _floats(x, 2, programs)
    with device_guard(x.device):
        norm_kernels.layer_norm_backward[(programs,)](
            *_contiguous(d_xn, x, weight, d_residual, scale), dx, d_branch, *sums,
            *_sizes(x, scale), float(eps), C=x.shape[1], **schedule,
        )  # fmt: skip
    d_weight, d_bias = sums.sum(1)
    return dx, d_weight, d_bias, dx if dtype is not None and d_branch is None else d_branch


def mlp(
    m: Tensor, scale: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, eps: float,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
) -> Tensor:  # fmt: skip
    """``m + scale * fc2(gelu(fc1(norm(m))))`` in the precision of ``m``, ``(T, C)``.

    ``w1`` is ``(hidden, C)`` and ``w2`` ``(C, hidden)``, both in the precision of the products;
    ``b1`` is ``(hidden,)`` and ``b2`` ``(C,)``. GELU is the exact one.
    """
    _check("mlp", unsupported_product_reason(m, w1.dtype, w1.shape[0]))
    y = torch.empty_like(m, memory_format=torch.contiguous_format)
    schedule = mlp_schedule("forward", m.shape[1], w1.shape[0], w1.dtype)
    with device_guard(m.device):
        mlp_kernels.mlp[(max(1, triton.cdiv(m.shape[0], schedule["ROWS"])),)](
            *_contiguous(m, scale, norm_weight, norm_bias, w1, b1, w2, b2), y,
            *_sizes(m, scale), float(eps), PRECISION=fp32_precision(), **schedule,
        )  # fmt: skip
    return y


class MlpGradients(NamedTuple):
    """What :func:`mlp_backward` computes."""

    dm: Tensor  # (T, C), in the precision of dy
    d_norm_weight: Tensor  # (C,) fp32
    d_norm_bias: Tensor  # (C,) fp32
    mn: Tensor  # (T, C), the norm's output; this and what follows in the products' precision
    g: Tensor  # (T, hidden), what enters the second layer
    dh: Tensor  # (T, hidden), gradient of what leaves the first layer
    d2: Tensor  # (T, C), gradient of what leaves the second layer; dy itself if equal


def mlp_backward(
    m: Tensor, dy: Tensor, scale: Tensor | None, norm_weight: Tensor, norm_bias: Tensor,
    eps: float, w1: Tensor, b1: Tensor, w2: Tensor,
) -> MlpGradients:  # fmt: skip
    """Gradients of :func:`mlp` and what its weights' gradients need; ``dy`` is ``(T, C)``.

    They are ``dh.T @ mn`` of ``w1``, ``dh.sum(0)`` of ``b1``, ``d2.T @ g`` of ``w2``,
    ``d2.sum(0)`` of ``b2``.
    """
    hidden, dtype = w1.shape[0], w1.dtype
    _check("mlp_backward", unsupported_product_reason(m, dtype, hidden))
    m, dy = m.contiguous(), dy.contiguous()
    schedule = mlp_schedule("backward", m.shape[1], hidden, dtype)
    programs = max(1, triton.cdiv(m.shape[0], schedule["ROWS"]))
    dm, mn = torch.empty_like(dy), torch.empty_like(m, dtype=dtype)
    g, dh = (m.new_empty(m.shape[0], hidden, dtype=dtype) for _ in range(2))
    d2 = None if scale is None and dy.dtype == dtype else torch.empty_like(mn)
    sums = _floats(m, 2, programs)
    with device_guard(m.device):
        mlp_kernels.mlp_backward[(programs,)](
            *_contiguous(m, dy, scale, norm_weight, norm_bias, w1, b1, w2),
            dm, *sums, mn, g, dh, d2, *_sizes(m, scale), float(eps),
            PRECISION=fp32_precision(), **schedule,
        )  # fmt: skip
    d_weight, d_bias = sums.sum(1)
    return MlpGradients(dm, d_weight, d_bias, mn, g, dh, dy if d2 is None else d2)


def norm_linear(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, w: Tensor, b: Tensor | None
) -> Tensor:
    """``norm(x) @ w.T + b`` in the precision of ``w``; ``(T, C)`` to ``(T, features)``."""
    _check("norm_linear", unsupported_product_reason(x, w.dtype, w.shape[0]))
    y = x.new_empty(x.shape[0], w.shape[0], dtype=w.dtype)
    _linear(x, norm_weight, norm_bias, w, b, None, None, y, eps)
    return y


def linear_residual(
    a: Tensor, w: Tensor, b: Tensor | None, x: Tensor, scale: Tensor | None
) -> Tensor:
    """``x + scale * (a @ w.T + b)`` in the precision of ``x``; ``a`` is ``(T, C)`` in ``w``'s."""
    _check("linear_residual", unsupported_product_reason(a, w.dtype, w.shape[0]))
    if a.dtype != w.dtype:
        raise ValueError(f"linear_residual in Triton needs {w.dtype} as its weight, got {a.dtype}")
    m = torch.empty_like(x, memory_format=torch.contiguous_format)
    _linear(a, None, None, w, b, x, scale, m, 0.0)
    return m


def _linear(
    a: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, w: Tensor, b: Tensor | None,
    x: Tensor | None, scale: Tensor | None, out: Tensor, eps: float,
) -> None:  # fmt: skip
    schedule = linear_schedule(a.shape[1], w.shape[0], w.dtype)
    with device_guard(a.device):
        linear_kernels.linear[(max(1, triton.cdiv(a.shape[0], schedule["ROWS"])),)](
            *_contiguous(a, norm_weight, norm_bias, w, b, x, scale), out,
            *_sizes(a, scale), float(eps), PRECISION=fp32_precision(), **schedule,
        )  # fmt: skip


def _check(name: str, reason: str | None) -> None:
    if reason is not None:
        raise ValueError(f"{name} in Triton {reason}; use plain PyTorch")


def _contiguous(*tensors: Any) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def _sizes(x: Tensor, scale: Tensor | None) -> tuple[int, int]:
    """Rows, and rows of an image."""
    rows, images = x.shape[0], 1 if scale is None else scale.shape[0]
    if rows % images:
        raise ValueError(f"{rows} rows are not of {images} images; give a factor for each image")
    return rows, max(1, rows // images)


def _floats(x: Tensor, *shape: int) -> Tensor:
    """An fp32 buffer of ``(*shape, C)``."""
    return torch.empty(*shape, x.shape[1], dtype=torch.float32, device=x.device)
