"""Launches the fused kernels of a Swin block: functions on rows of channels, without autograd.

Tensors of T tokens are ``(T, C)``. The residual stream (``x``, ``m`` and their gradients) is in
fp32 or in the precision of the products, ``dtype``: fp32, fp16 or bf16. ``scale`` is None or the
factor of each image in stochastic depth, ``(B,)`` fp32 (0, or 1 / the rate of survival): image b
has rows ``b * T / B`` and on. Norms and sums are in fp32, as are gradients of norms' weights and
biases. All results are the same bits at every call on one machine.

Every function raises ValueError where it cannot run, see :mod:`~.triton.support`.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from swin_dense.ops.block.layers import Linear, Norm, Scales
from swin_dense.ops.block.triton import gelu_kernels, norm_kernels, product_kernels
from swin_dense.ops.block.triton.support import (
    unsupported_linear_reason,
    unsupported_product_reason,
    unsupported_reason,
    unsupported_sum_reason,
)
from swin_dense.ops.triton_support import device_guard, fp32_precision, multiprocessors

# Warps of backward programs on a multiprocessor: what its registers hold at 96 a thread. More
# programs would wait for the first to end, which all have the same number of rows.
_WARPS_PER_SM = 20
# Of the kernels without a norm: 16 numbers a thread.
_GELU = {"BLOCK": 2048, "num_warps": 4}
_BRANCH_BACKWARD = {"ROWS": 16, "COLUMNS": 128, "num_warps": 4}


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
    memory within the loop. A warp has 16 rows: with more warps than rows / 16, several compute the
    same hidden units. Their speed is not measured.
    """
    rows, chunk, warps, stages = 64, 32, 4, 2
    if dtype == torch.float32:  # tensor cores or not
        rows, warps, stages = 32, 8, 1
    elif direction == "forward" and channels > 128:
        rows, warps = 128, 8
    elif direction == "forward":
        chunk = 64
    if hidden % chunk:
        chunk = 32
    sizes = {"HIDDEN": hidden, "ROWS": rows, "CHUNK": chunk}
    return {**_two_tiles(channels), **sizes, "num_warps": warps, "num_stages": stages}


def linear_schedule(channels: int, features: int, dtype: torch.dtype) -> dict[str, int]:
    """Tiles, warps and stages of a linear layer's kernel; chosen as an MLP's are."""
    rows, stages = (32, 1) if dtype == torch.float32 else (128, 2)
    if channels > 384:
        rows = min(rows, 64)  # registers and shared memory hold no more
    narrow = channels <= 128 or channels == 384
    chunk = 64 if narrow and features % 64 == 0 and rows == 128 else 32
    sizes = {"FEATURES": features, "ROWS": rows, "CHUNK": chunk}
    return {**_two_tiles(channels), **sizes, "num_warps": 8, "num_stages": stages}


def linear_backward_schedule(
    kernel: str, channels: int, features: int, dtype: torch.dtype
) -> dict[str, int]:
    """Tiles, warps and stages of a linear layer's backward kernel; chosen as an MLP's are."""
    rows, stages = (32, 1) if dtype == torch.float32 else (64, 2)
    name = "HIDDEN" if kernel == "gelu_linear_backward" else "FEATURES"
    if name == "HIDDEN" and stages == 2 and channels <= 384:
        rows = 128
    sizes = {name: features, "ROWS": rows, "CHUNK": 32}
    return {**_two_tiles(channels), **sizes, "num_warps": 8, "num_stages": stages}


def residual_schedule(channels: int, hidden: int, dtype: torch.dtype) -> dict[str, int]:
    """Tiles, warps and stages of a linear layer from many channels; chosen as an MLP's are."""
    rows, stages = (32, 1) if dtype == torch.float32 else (128, 2)
    # Columns of a program, whose sums are in registers.
    width = channels if channels <= 192 else 192 if channels % 192 == 0 else 128
    sizes = {"HIDDEN": hidden, "ROWS": rows, "CHUNK": 32 if hidden % 64 else 64}
    parts = {"PARTS": channels // width}
    return {**_two_tiles(width), **parts, **sizes, "num_warps": 8, "num_stages": stages}


def _two_tiles(channels: int) -> dict[str, int]:
    """The largest power of 2 that leaves something, and what it leaves."""
    first = 1 << ((channels - 1).bit_length() - 1)
    return {"C_1": first, "C_2": channels - first}


def layer_norm(x: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    """LayerNorm of ``x``, ``(T, C)``, in ``dtype``."""
    check("layer_norm", unsupported_reason(x, dtype))
    xn = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    _add_layer_norm(x, None, None, norm, None, xn)
    return xn


def add_layer_norm(
    x: Tensor, y: Tensor, scale: Tensor | None, norm: Norm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``m = x + scale * y`` in the precision of ``x``, and LayerNorm of ``m`` in ``dtype``."""
    check("add_layer_norm", unsupported_reason(x, dtype))
    m = torch.empty_like(x, memory_format=torch.contiguous_format)
    mn = torch.empty_like(m, dtype=dtype)
    _add_layer_norm(x, y, scale, norm, m, mn)
    return m, mn


def add(x: Tensor, y: Tensor, scale: Tensor | None) -> Tensor:
    """``x + scale * y`` in the precision of ``x``."""
    check("add", unsupported_reason(x, y.dtype))
    m = torch.empty_like(x, memory_format=torch.contiguous_format)
    _add_layer_norm(x, y, scale, None, m, None)
    return m


def _add_layer_norm(
    x: Tensor, y: Tensor | None, scale: Tensor | None, norm: Norm | None,
    m: Tensor | None, mn: Tensor | None,
) -> None:  # fmt: skip
    weight, bias, eps = norm or (None, None, 0.0)
    inputs = (*contiguous(x, y, scale, weight, bias), m, mn, *_sizes(x, scale), float(eps))
    schedule = norm_schedule("forward", x.shape[1])
    launch(norm_kernels.add_layer_norm, blocks(x, schedule), x, inputs, C=x.shape[1], **schedule)


def layer_norm_backward(
    d_xn: Tensor, x: Tensor, norm: Norm, d_residual: Tensor | None = None,
    scale: Tensor | None = None, dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of a norm's input and parameters, and what the branch below it receives.

    Args:
        d_xn: gradient of the norm's output, ``(T, C)``.
        x: the norm's input, ``(T, C)``.
        norm: the norm.
        d_residual: gradient of ``x`` by another path, ``(T, C)``, or None.
        scale: factors of the images in the branch that was added to make ``x``, or None.
        dtype: precision of the branch, or None if there is none.

    Returns:
        ``dx`` in the precision of ``x``, ``d_weight`` and ``d_bias`` in fp32, ``(C,)``; and of the
        branch ``scale * dx`` in ``dtype``, ``dx`` itself if equal, and its sum over rows in fp32:
        None without a branch.
    """
    check("layer_norm_backward", unsupported_reason(x, dtype or x.dtype))
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    d_branch = None
    if dtype is not None and (scale is not None or dtype != x.dtype):
        d_branch = torch.empty_like(dx, dtype=dtype)
    schedule = norm_schedule("backward", x.shape[1])
    programs = resident(x, blocks(x, schedule), schedule)
    sums = floats(x, 2 if dtype is None else 3, programs)
    inputs = contiguous(d_xn, x, norm.weight, d_residual, scale)
    inputs += [dx, d_branch, *sums, *[None] * (3 - len(sums)), *_sizes(x, scale), float(norm.eps)]
    launch(norm_kernels.layer_norm_backward, programs, x, inputs, C=x.shape[1], **schedule)
    d_weight, d_bias, *d_branch_bias = sums.sum(1)
    if not d_branch_bias:
        return dx, d_weight, d_bias, None, None
    return dx, d_weight, d_bias, dx if d_branch is None else d_branch, d_branch_bias[0]


def gelu(h: Tensor) -> Tensor:
    """GELU of ``(T, hidden)``: the exact one in fp32, and within 4.7e-5 of it in 16 bits."""
    h = h.contiguous()
    g = torch.empty_like(h)
    programs = max(1, triton.cdiv(h.numel(), _GELU["BLOCK"]))
    launch(gelu_kernels.gelu, programs, h, (h, g, h.numel()), **_GELU)
    return g


def gelu_backward(d_g: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of what enters :func:`gelu`, which may be written over ``d_g``, and its result.

    Returns:
        ``d_h`` and ``g = gelu(h)``, ``(T, hidden)``, and ``d_h.sum(0)`` in fp32.
    """
    d_g, h = contiguous(d_g, h)
    g = torch.empty_like(h)
    return d_g, g, _branch_backward(d_g, h, None, g, d_g)


def branch_gradient(d: Tensor, scale: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``scale * d`` in ``dtype``, ``(T, C)``, d itself if equal; and its sum over rows in fp32."""
    d = d.contiguous()
    out = None if scale is None and d.dtype == dtype else torch.empty_like(d, dtype=dtype)
    d_bias = _branch_backward(d, None, scale, None, out)
    return d if out is None else out, d_bias


def _branch_backward(
    d: Tensor, h: Tensor | None, scale: Tensor | None, g: Tensor | None, out: Tensor | None
) -> Tensor:
    channels, schedule = d.shape[1], _BRANCH_BACKWARD
    columns = triton.cdiv(channels, schedule["COLUMNS"])
    programs = resident(d, blocks(d, schedule), schedule, columns)
    d_bias = floats(d, programs)
    inputs = (d, h, *contiguous(scale), g, out, d_bias, *_sizes(d, scale))
    options = {"C": channels, **schedule}
    launch(gelu_kernels.branch_backward, programs, d, inputs, columns, **options)
    return d_bias.sum(0)


def mlp(m: Tensor, scale: Tensor | None, norm: Norm, fc1: Linear, fc2: Linear) -> Tensor:
    """``m + scale * fc2(gelu(fc1(norm(m))))`` in the precision of ``m``, ``(T, C)``.

    Weights are in the precision of the products; both layers have a bias. GELU is the exact one in
    fp32, and within 4.7e-5 of it in 16 bits.
    """
    hidden, dtype = fc1.weight.shape[0], fc1.weight.dtype
    check("mlp", unsupported_product_reason(m, dtype, hidden))
    y = torch.empty_like(m, memory_format=torch.contiguous_format)
    schedule = mlp_schedule("forward", m.shape[1], hidden, dtype)
    inputs = (*contiguous(m, scale, *norm[:2], *fc1, *fc2), y, *_sizes(m, scale), float(norm.eps))
    launch(product_kernels.mlp, blocks(m, schedule), m, inputs, **_product(schedule))
    return y


class MlpGradients(NamedTuple):
    """What :func:`mlp_backward` computes."""

    dm: Tensor  # (T, C), in the precision of dy
    d_branch: Tensor  # (T, C), in the products' precision, as what follows; dm itself if equal
    mn: Tensor  # (T, C), the norm's output
    g: Tensor  # (T, hidden), what enters the second layer
    dh: Tensor  # (T, hidden), gradient of what leaves the first layer
    d2: Tensor  # (T, C), gradient of what leaves the second layer; dy itself if equal
    d_norm_weight: Tensor  # (C,) fp32, as what follows
    d_norm_bias: Tensor  # (C,)
    d_b1: Tensor  # (hidden,), sum of dh over rows
    d_b2: Tensor  # (C,), sum of d2 over rows
    d_branch_bias: Tensor  # (C,), sum of d_branch over rows


def mlp_backward(
    m: Tensor, dy: Tensor, scales: Scales, norm: Norm, fc1: Linear, fc2: Linear
) -> MlpGradients:
    """Gradients of :func:`mlp` and what its weights' gradients need; ``dy`` is ``(T, C)``.

    Gradients of weights are ``dh.T @ mn`` and ``d2.T @ g``. The first of the scales is of the
    branch that was added to make ``m``, which receives ``d_branch = scale * dm``; the second is the
    MLP's.
    """
    hidden, dtype = fc1.weight.shape[0], fc1.weight.dtype
    check("mlp_backward", unsupported_product_reason(m, dtype, hidden))
    m, dy, branch_scale, scale = contiguous(m, dy, *scales)
    schedule = mlp_schedule("backward", m.shape[1], hidden, dtype)
    programs = blocks(m, schedule)
    dm, mn = torch.empty_like(dy), torch.empty_like(m, dtype=dtype)
    g, dh = (m.new_empty(m.shape[0], hidden, dtype=dtype) for _ in range(2))
    d2, d_branch = (
        None if s is None and dy.dtype == dtype else torch.empty_like(mn)
        for s in (scale, branch_scale)
    )
    sums, hidden_sums = floats(m, 4, programs), floats(g, programs)
    inputs = [m, dy, scale, *contiguous(*norm[:2], *fc1, fc2.weight), branch_scale]
    inputs += [dm, mn, g, dh, d2, d_branch, sums, hidden_sums]
    inputs += [*_sizes(m, branch_scale if scale is None else scale), float(norm.eps)]
    launch(product_kernels.mlp_backward, programs, m, inputs, **_product(schedule))
    d_weight, d_bias, d_b2, d_branch_bias = sums.sum(1)
    return MlpGradients(
        dm, dm if d_branch is None else d_branch, mn, g, dh, dy if d2 is None else d2,
        d_weight, d_bias, hidden_sums.sum(0), d_b2, d_branch_bias,
    )  # fmt: skip


def norm_linear(x: Tensor, norm: Norm, linear: Linear) -> Tensor:
    """``linear(norm(x))`` in the precision of the weight; ``(T, C)`` to ``(T, features)``."""
    weight = linear.weight
    check("norm_linear", unsupported_linear_reason(x, weight.dtype, weight.shape[0]))
    y = x.new_empty(x.shape[0], weight.shape[0], dtype=weight.dtype)
    _linear(x, norm, linear, None, None, y, None)
    return y


def norm_linear_gelu(x: Tensor, norm: Norm, linear: Linear, keep: bool) -> tuple[Tensor, ...]:
    """``gelu(linear(norm(x)))``, ``(T, features)``; with ``keep`` also what enters GELU."""
    weight = linear.weight
    check("norm_linear_gelu", unsupported_linear_reason(x, weight.dtype, weight.shape[0]))
    g = x.new_empty(x.shape[0], weight.shape[0], dtype=weight.dtype)
    h = torch.empty_like(g) if keep else None
    _linear(x, norm, linear, None, None, h, g)
    return (g,) if h is None else (g, h)


def norm_linear_backward(
    dy: Tensor, x: Tensor, norm: Norm, weight: Tensor, d_residual: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`norm_linear`, ``dy`` is ``(T, features)``; and what a weight's needs.

    Returns:
        ``dx``, with its gradient by another path ``d_residual``; the norm's output in the weight's
        precision, ``(T, C)``; gradients of the norm's weight and bias, and of the layer's bias.
    """
    features, dtype = weight.shape[0], weight.dtype
    check("norm_linear_backward", unsupported_sum_reason(x, dtype, features))
    schedule = linear_backward_schedule("norm_linear_backward", x.shape[1], features, dtype)
    dy, x, *others = contiguous(dy, x, *norm[:2], weight, d_residual)
    dx, xn = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    programs = blocks(x, schedule)
    sums, feature_sums = floats(x, 2, programs), floats(dy, programs)
    inputs = [dy, x, *others, dx, xn, sums, feature_sums, *_sizes(x, None), float(norm.eps)]
    launch(product_kernels.norm_linear_backward, programs, x, inputs, **_product(schedule))
    d_weight, d_bias = sums.sum(1)
    return dx, xn, d_weight, d_bias, feature_sums.sum(0)


class GeluLinearGradients(NamedTuple):
    """What :func:`gelu_linear_backward` computes."""

    d: Tensor  # (T, C), gradient of what leaves the layer; dy itself if equal
    g: Tensor  # (T, hidden), what enters the layer
    dh: Tensor  # (T, hidden), gradient of what enters GELU
    d_b: Tensor  # (C,) fp32, sum of d over rows
    d_bh: Tensor  # (hidden,) fp32, sum of dh over rows


def gelu_linear_backward(
    dy: Tensor, scale: Tensor | None, weight: Tensor, h: Tensor
) -> GeluLinearGradients:
    """Gradients of ``scale * linear(gelu(h))``: ``dy`` is ``(T, C)``, the weight ``(C, hidden)``.

    That of the weight is ``d.T @ g``.
    """
    hidden, dtype = weight.shape[1], weight.dtype
    check("gelu_linear_backward", unsupported_linear_reason(dy, dtype, hidden))
    schedule = linear_backward_schedule("gelu_linear_backward", dy.shape[1], hidden, dtype)
    dy, scale, weight, h = contiguous(dy, scale, weight, h)
    d = None if scale is None and dy.dtype == dtype else torch.empty_like(dy, dtype=dtype)
    g, dh = torch.empty_like(h), torch.empty_like(h)
    programs = blocks(dy, schedule)
    sums, hidden_sums = floats(dy, programs), floats(h, programs)
    inputs = [dy, scale, weight, h, g, dh, d, sums, hidden_sums, *_sizes(dy, scale)]
    launch(product_kernels.gelu_linear_backward, programs, dy, inputs, **_product(schedule))
    return GeluLinearGradients(dy if d is None else d, g, dh, sums.sum(0), hidden_sums.sum(0))


def linear_residual(a: Tensor, linear: Linear, x: Tensor, scale: Tensor | None) -> Tensor:
    """``x + scale * linear(a)`` in the precision of ``x``; ``a`` is ``(T, C)`` in the weight's."""
    weight = linear.weight
    check("linear_residual", unsupported_linear_reason(a, weight.dtype, weight.shape[0]))
    if a.dtype != weight.dtype:
        message = f"linear_residual in Triton needs {weight.dtype} as its weight, got {a.dtype}"
        raise ValueError(message)
    m = torch.empty_like(x, memory_format=torch.contiguous_format)
    _linear(a, None, linear, x, scale, m, None)
    return m


def residual_linear(a: Tensor, linear: Linear, x: Tensor, scale: Tensor | None) -> Tensor:
    """:func:`linear_residual` from any number of channels, ``(T, hidden)`` to ``(T, C)``."""
    weight = linear.weight
    check("residual_linear", unsupported_linear_reason(x, weight.dtype, a.shape[1]))
    m = torch.empty_like(x, memory_format=torch.contiguous_format)
    schedule = residual_schedule(x.shape[1], a.shape[1], weight.dtype)
    inputs = [*contiguous(a, *linear, x, scale), m, *_sizes(x, scale)]
    programs = blocks(x, schedule) * schedule["PARTS"]
    launch(product_kernels.residual_linear, programs, x, inputs, **_product(schedule))
    return m


def _linear(
    a: Tensor, norm: Norm | None, linear: Linear, x: Tensor | None, scale: Tensor | None,
    out: Tensor | None, g: Tensor | None,
) -> None:  # fmt: skip
    weight, bias, eps = norm or (None, None, 0.0)
    inputs = contiguous(a, weight, bias, *linear, x, scale)
    inputs += [out, g, *_sizes(a, scale), float(eps)]
    schedule = linear_schedule(a.shape[1], linear.weight.shape[0], linear.weight.dtype)
    launch(product_kernels.linear, blocks(a, schedule), a, inputs, **_product(schedule))


def launch(
    kernel: Any, programs: int, x: Tensor, inputs: Any, columns: int = 1, **options: Any
) -> None:
    """Start so many programs of a kernel, times columns, on the device of x."""
    with device_guard(x.device):
        kernel[(programs, columns)](*inputs, **options)


def blocks(x: Tensor, schedule: dict[str, int]) -> int:
    """Blocks of rows: programs of a kernel in which each owns one."""
    return max(1, triton.cdiv(x.shape[0], schedule["ROWS"]))


def resident(x: Tensor, most: int, schedule: dict[str, int], columns: int = 1) -> int:
    """Programs of a kernel in which each strides over blocks of rows: what a GPU holds at once.

    No more than ``most``, the number of blocks, and one at least.
    """
    programs = _WARPS_PER_SM // schedule["num_warps"] * multiprocessors(x.device)
    return max(1, min(most, programs // columns))


def _product(schedule: dict[str, int]) -> dict[str, Any]:
    return {"PRECISION": fp32_precision(), **schedule}


def check(name: str, reason: str | None) -> None:
    """Raise ValueError if there is a reason why a function cannot run."""
    if reason is not None:
        raise ValueError(f"{name} in Triton {reason}; use plain PyTorch")


def contiguous(*tensors: Any) -> list[Any]:
    """The tensors, contiguous; None stays None."""
    return [None if t is None else t.contiguous() for t in tensors]


def _sizes(x: Tensor, scale: Tensor | None) -> tuple[int, int]:
    """Rows, and rows of an image."""
    rows, images = x.shape[0], 1 if scale is None else scale.shape[0]
    if rows % images:
        raise ValueError(f"{rows} rows are not of {images} images; give a factor for each image")
    return rows, max(1, rows // images)


def floats(x: Tensor, *shape: int) -> Tensor:
    """An fp32 buffer of ``(*shape, C)``."""
    return torch.empty(*shape, x.shape[1], dtype=torch.float32, device=x.device)
