"""Launches the Triton kernels: shapes of their grids, tiles and buffers, sums of their parts."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from swin_dense.ops.triton_support import device_guard, fp32_precision, multiprocessors
from swin_dense.ops.window_attention.triton import kernels
from swin_dense.ops.window_attention.windows import WindowSpec, padded_size

# Programs per multiprocessor: enough to fill it, few enough that a program sums over many windows.
_PROGRAMS_PER_SM = 4
_LARGEST_INT32 = 2**31 - 1


class Tiles(NamedTuple):
    """Tokens of the tiles that a window is cut into; the last of a kind may be partly empty.

    Sides are powers of 2, 16 at least. ``keys`` are the two tiles of a row of keys, the second may
    be 0; the others are what a program of a kernel owns, or steps over.
    """

    forward: int
    keys: tuple[int, int]
    backward_queries: int
    backward_keys: int
    query_step: int


@lru_cache
def tiles(window_size: int) -> Tiles:
    """Tiles for windows of ``window_size`` x ``window_size`` tokens.

    Chosen by compiling for sm_90 without a GPU: the largest that leave little or nothing in local
    memory for windows of 7 and 12. Their speed is not measured.
    """
    n = window_size**2
    if n <= 64:
        side = triton.next_power_of_2(n)
        return Tiles(side, (side, 0), side, side, side)
    first = 1 << (n.bit_length() - 1)
    second = max(triton.next_power_of_2(n - first), 16) if n > first else 0
    return Tiles(64 if n <= 144 else 16, (first, second), 16, 64, 32)


def schedule(kernel: str, dtype: torch.dtype) -> dict[str, int]:
    """Warps of a program, windows that it has in flight, and where needed its most registers.

    Without tensor cores, as fp32 in full precision is, a tile needs twice the threads. Backward
    has no registers left for the next window's loads.
    """
    if dtype == torch.float32:
        return {"num_warps": 8, "num_stages": 1}
    options = {"num_warps": 4, "num_stages": 2 if kernel == "forward" else 1}
    if kernel == "backward_keys" and torch.version.hip is None:
        options["maxnreg"] = 168  # what lets a multiprocessor hold three programs
    return options


class _Problem:
    """What one call is about: sizes, and the arguments that all kernels share."""

    def __init__(self, qkv: Tensor, spec: WindowSpec) -> None:
        b, h, w, _ = qkv.shape
        num_heads, window_size, shift_size, scale = spec
        padded_h, padded_w = padded_size(h, w, window_size)
        rows, columns = padded_h // window_size, padded_w // window_size
        self.padded = (padded_h, padded_w) != (h, w)
        self.heads = num_heads
        self.window_size = window_size
        self.tokens = window_size**2
        self.windows = b * rows * columns
        self.device = qkv.device
        self.dtype = qkv.dtype
        self.sizes = (self.windows, rows, columns, h, w, num_heads, float(scale))
        # Of a map smaller than a window, padding makes these the larger.
        statistics = 3 * self.windows * self.tokens * num_heads
        self.constants = {
            "M": window_size,
            "SHIFT": shift_size,
            "PADDED": self.padded,
            "WIDE": max(qkv.numel(), statistics) > _LARGEST_INT32,
            "PRECISION": fp32_precision(),
        }

    def grid(self, block: int) -> tuple[int, int]:
        """Blocks of ``block`` tokens in a window, and programs that share a block's windows."""
        blocks = triton.cdiv(self.tokens, block)
        programs = _PROGRAMS_PER_SM * multiprocessors(self.device)
        groups = triton.cdiv(programs, self.heads * blocks)
        return blocks, max(1, min(self.windows, groups))

    def padding_token(self, qkv_bias: Tensor | None) -> Tensor | None:
        """q, k and v of padding in the precision of qkv; None where there is none, or it is 0."""
        return qkv_bias.to(self.dtype) if self.padded and qkv_bias is not None else None

    def floats(self, *shape: int) -> Tensor:
        """An fp32 buffer."""
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def pairs(self, groups: int) -> Tensor:
        """Where programs write their sums for pairs of tokens, to be summed over dim 0."""
        return self.floats(groups, self.heads, self.tokens, self.tokens)

    def padding(self, programs: int) -> Tensor:
        """Where programs write their sums for k and v of padding, to be summed over dim 0."""
        return self.floats(programs, 2, self.heads, 32)


def forward(
    qkv: Tensor, qkv_bias: Tensor | None, position_bias: Tensor | None, spec: WindowSpec
) -> Tensor:
    """Attention without autograd; arguments are those of :func:`~.api.shifted_window_attention`.

    Products of fp16 and bf16 are summed in fp32, in which the softmax is computed too. The result
    and all gradients are the same bits at every call on one machine.
    """
    qkv, qkv_bias, position_bias = _contiguous(qkv, qkv_bias, position_bias)
    problem = _Problem(qkv, spec)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    tile = tiles(spec.window_size)
    blocks, groups = problem.grid(tile.forward)
    with device_guard(qkv.device):
        kernels.forward[(spec.num_heads * blocks * groups,)](
            qkv, problem.padding_token(qkv_bias), position_bias, out, *problem.sizes,
            **problem.constants, **schedule("forward", qkv.dtype),
            BLOCK=tile.forward, KEYS_1=tile.keys[0], KEYS_2=tile.keys[1],
        )  # fmt: skip
    return out


def backward(
    d_out: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    spec: WindowSpec,
    want_qkv_bias: bool,
    want_position_bias: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of qkv, and of the two biases where wanted."""
    d_out, qkv, qkv_bias, position_bias = _contiguous(d_out, qkv, qkv_bias, position_bias)
    problem = _Problem(qkv, spec)
    d_qkv = torch.empty_like(qkv)
    inputs = (qkv, problem.padding_token(qkv_bias), position_bias, d_out, d_qkv)
    want_padding = want_qkv_bias and problem.padded
    with device_guard(qkv.device):
        launch = _backward_small if problem.tokens <= 64 else _backward_large
        pairs, padding = launch(problem, inputs, want_padding, want_position_bias)
    d_qkv_bias = None
    if qkv_bias is not None and want_qkv_bias:
        # A padded query has no output, so only k and v of padded tokens send a gradient.
        d_qkv_bias = qkv.new_zeros(3, spec.num_heads, 32, dtype=torch.float32)
        if padding is not None:
            d_qkv_bias[1:] = padding.sum(0)
        d_qkv_bias = d_qkv_bias.flatten().to(qkv_bias.dtype)
    if position_bias is None or pairs is None:
        return d_qkv, d_qkv_bias, None
    return d_qkv, d_qkv_bias, pairs.sum(0).to(position_bias.dtype)


def _contiguous(*tensors: Tensor | None) -> Any:
    return [None if x is None else x.contiguous() for x in tensors]


def _backward_small(
    problem: _Problem, inputs: tuple, want_padding: bool, want_pairs: bool
) -> tuple[Tensor | None, Tensor | None]:
    """One kernel; returns what its programs summed up for pairs of tokens and for padding."""
    side = tiles(problem.window_size).forward
    _, groups = problem.grid(side)
    pairs = problem.pairs(groups) if want_pairs else None
    padding = problem.padding(groups) if want_padding else None
    kernels.backward[(problem.heads * groups,)](
        *inputs, pairs, padding, *problem.sizes, **problem.constants,
        **schedule("backward", problem.dtype), BLOCK=side,
    )  # fmt: skip
    return pairs, padding


def _backward_large(
    problem: _Problem, inputs: tuple, want_padding: bool, want_pairs: bool
) -> tuple[Tensor | None, Tensor | None]:
    """A kernel for the queries and one for the keys; returns as :func:`_backward_small`."""
    tile = tiles(problem.window_size)
    statistics = problem.floats(problem.windows, problem.heads, 3, problem.tokens)
    blocks, groups = problem.grid(tile.backward_queries)
    pairs = problem.pairs(groups) if want_pairs else None
    kernels.backward_queries[(problem.heads * blocks * groups,)](
        *inputs, pairs, statistics, *problem.sizes,
        **problem.constants, **schedule("backward_queries", problem.dtype),
        BLOCK=tile.backward_queries, KEYS_1=tile.keys[0], KEYS_2=tile.keys[1],
    )  # fmt: skip
    blocks, groups = problem.grid(tile.backward_keys)
    padding = problem.padding(groups * blocks) if want_padding else None
    kernels.backward_keys[(problem.heads * blocks * groups,)](
        *inputs, padding, statistics, *problem.sizes,
        **problem.constants, **schedule("backward_keys", problem.dtype),
        BLOCK=tile.backward_keys, QUERIES=tile.query_step,
    )  # fmt: skip
    return pairs, padding
