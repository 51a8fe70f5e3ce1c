"""Launches the Triton kernels: shapes of their grids, tiles and buffers, sums of their parts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from swin_dense.ops.triton_support import (
    device_guard,
    fp32_precision,
    gpu_properties,
    major_capability,
    multiprocessors,
)
from swin_dense.ops.window_attention.triton import kernels, large_kernels
from swin_dense.ops.window_attention.windows import WindowSpec, padded_size

# The interpreter runs one program after the other; its tests have several share the windows.
_INTERPRETED_PROGRAMS = 4
_LARGEST_INT32 = 2**31 - 1
_KERNELS = {
    "forward": kernels.forward,
    "backward": kernels.backward,
    "backward_queries": large_kernels.backward_queries,
    "backward_keys": large_kernels.backward_keys,
}


class Tiles(NamedTuple):
    """Tokens of the tiles that a window is cut into; the last of a kind may be partly empty.

    Sides are powers of 2, 16 at least. The first three are what a program of a kernel owns, the
    others what that is multiplied with: one side as often as it goes, and one for the rest.
    """

    forward: int
    backward_queries: int
    backward_keys: int
    keys: tuple[int, ...]
    keys_backward: tuple[int, ...]
    queries: tuple[int, ...]


@lru_cache
def tiles(window_size: int, dtype: torch.dtype, head_dim: int) -> Tiles:
    """Tiles for windows of ``window_size`` x ``window_size`` tokens.

    Chosen by compiling for sm_90 without a GPU: their speed is not measured. In 16 bit they are
    those with the fewest instructions. Hopper's products take 64 rows at least; 32 columns at a
    time spare registers where no row is needed as a whole. In fp32 16 rows are as fast as 64, and
    fit into registers; 64 columns fit into shared memory.
    """
    n = window_size**2
    if n <= 64:
        side = triton.next_power_of_2(n)
        return Tiles(side, side, side, (side,), (side,), (side,))
    if dtype == torch.float32:
        return Tiles(16, 16, 16, _cut(n, 64), _cut(n, 64), _cut(n, 64))
    keys = _cut(n, 1 << (n.bit_length() - 1))
    if n > 144 and head_dim > 32:
        return Tiles(64, 16, 64, keys, keys, _cut(n, 32))  # for the sake of shared memory
    # Backward of larger windows computes weights twice, a tile at a time: see the kernel.
    return Tiles(64, 64, 64, keys, keys if n <= 144 else _cut(n, 64), _cut(n, 32))


def _cut(tokens: int, side: int) -> tuple[int, ...]:
    whole, rest = divmod(tokens, side)
    return (side,) * whole + ((max(triton.next_power_of_2(rest), 16),) if rest else ())


def schedule(kernel: str, dtype: torch.dtype, window_size: int, major: int) -> dict[str, int]:
    """Warps of a program, and windows that it has in flight.

    Without tensor cores, as fp32 in full precision is, a tile needs twice the threads. Backward
    has no registers left for the next window's loads.

    Of capability 10 (B200), whose products of 4 or 8 warps pass through tensor memory, windows of
    one tile take 2 warps: then Triton multiplies from registers. Compiled for sm_100 without a GPU,
    a window of 7 takes 691 instructions of 2 warps forward and 1460 backward. In backward of larger
    windows the tiles of 4 warps do not fit into tensor memory.
    """
    if dtype == torch.float32:
        return {"num_warps": 8, "num_stages": 1}
    if major == 10 and (window_size <= 8 or kernel.startswith("backward")):
        return {"num_warps": 2, "num_stages": 2 if kernel == "forward" else 1}
    return {"num_warps": 4, "num_stages": 2 if kernel == "forward" else 1}


def resident_programs(gpu: Any, warps: int, registers: int, shared: int) -> int:
    """Programs that a multiprocessor holds at once.

    Args:
        gpu: as :func:`torch.cuda.get_device_properties` returns it.
        warps: warps of a program.
        registers: registers of a thread.
        shared: bytes of shared memory of a program.
    """
    # A warp's registers are dealt out 256 at a time; CUDA keeps 1 KiB of each program for itself.
    per_warp = triton.cdiv(registers * gpu.warp_size, 256) * 256
    limits = (
        gpu.regs_per_multiprocessor // (per_warp * warps),
        gpu.max_threads_per_multi_processor // (gpu.warp_size * warps),
        gpu.shared_memory_per_multiprocessor // (shared + 1024),
    )
    return max(1, min(limits))


@lru_cache
def concurrent_programs(
    kernel: str, dtypes: tuple, sizes: int, constants: tuple, device: torch.device, processors: int
) -> int:
    """Programs of a kernel that a device runs at once; compiles the kernel.

    Args:
        kernel: its name.
        dtypes: dtypes of its tensors, None for those that there are not.
        sizes: how many integers follow, before the scale.
        constants: its constants and its schedule, as items of a dict.
        device: where it is to run, the current device.
        processors: its multiprocessors; GPUs that kernels are only compiled for differ in them.
    """
    function = _KERNELS[kernel]
    if not isinstance(function, triton.JITFunction):
        return _INTERPRETED_PROGRAMS
    compiled = function.warmup(*dtypes, *[1] * sizes, 1.0, grid=(1,), **dict(constants))
    compiled._init_handles()  # registers are known once it is loaded
    usage = (compiled.metadata.num_warps, compiled.n_regs, compiled.metadata.shared)
    return processors * resident_programs(gpu_properties(device), *usage)


def groups_of_windows(windows: int, programs: int, concurrent: int) -> int:
    """Into how many groups windows are cut, each for ``programs`` programs.

    The number for which the GPU, which runs ``concurrent`` programs at once, is through with the
    fewest windows one after the other. What a program loads first counts as one window more.
    """

    def windows_in_turn(groups: int) -> int:
        return triton.cdiv(groups * programs, concurrent) * (triton.cdiv(windows, groups) + 1)

    windows = max(windows, 1)
    most = [max(1, min(windows, waves * concurrent // programs)) for waves in (1, 2, 3)]
    # As few groups as have no more windows each: every group writes sums of its own.
    return triton.cdiv(windows, triton.cdiv(windows, min(most, key=windows_in_turn)))


class _Problem:
    """What one call is about: sizes, and the arguments that all kernels share."""

    def __init__(self, qkv: Tensor, spec: WindowSpec) -> None:
        b, h, w, _ = qkv.shape
        num_heads, window_size, shift_size, scale = spec
        padded_h, padded_w = padded_size(h, w, window_size)
        rows, columns = padded_h // window_size, padded_w // window_size
        self.padded = (padded_h, padded_w) != (h, w)
        self.heads = num_heads
        self.head_dim = qkv.shape[3] // (3 * num_heads)
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
            "D": self.head_dim,
            "PRECISION": fp32_precision(),
        }

    def plan(self, kernel: str, tensors: tuple, **tile: Any) -> _Plan:
        """How to launch a kernel; for tensors that depend on it, their dtype may be given."""
        dtypes = tuple(x.dtype if isinstance(x, Tensor) else x for x in tensors)
        chosen = schedule(kernel, self.dtype, self.window_size, major_capability(self.device))
        options = {**self.constants, **chosen, **tile}
        where = self.device, multiprocessors(self.device)
        concurrent = concurrent_programs(
            kernel, dtypes, len(self.sizes) - 1, tuple(options.items()), *where
        )
        blocks = triton.cdiv(self.tokens, tile["BLOCK"])
        groups = groups_of_windows(self.windows, self.heads * blocks, concurrent)
        return _Plan(_KERNELS[kernel], self, options, blocks, groups)

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
        return self.floats(programs, 2, self.heads, self.head_dim)


class _Plan(NamedTuple):
    """A kernel with its options; blocks of a window's tokens, and groups of windows."""

    kernel: Any
    problem: _Problem
    options: dict[str, Any]
    blocks: int
    groups: int

    def launch(self, *tensors: Tensor | None) -> None:
        grid = (self.problem.heads * self.blocks * self.groups,)
        self.kernel[grid](*tensors, *self.problem.sizes, **self.options)


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
    tensors = (qkv, problem.padding_token(qkv_bias), position_bias, out)
    tile = tiles(spec.window_size, qkv.dtype, problem.head_dim)
    with device_guard(qkv.device):
        problem.plan("forward", tensors, BLOCK=tile.forward, TILES=tile.keys).launch(*tensors)
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
    want_position_bias = want_position_bias and position_bias is not None
    with device_guard(qkv.device):
        launch = _backward_small if problem.tokens <= 64 else _backward_large
        pairs, padding = launch(problem, inputs, want_padding, want_position_bias)
    d_qkv_bias = None
    if qkv_bias is not None and want_qkv_bias:
        # A padded query has no output, so only k and v of padded tokens send a gradient.
        d_qkv_bias = qkv.new_zeros(3, spec.num_heads, problem.head_dim, dtype=torch.float32)
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
    sums = [torch.float32 if want else None for want in (want_pairs, want_padding)]
    plan = problem.plan(
        "backward",
        (*inputs, *sums),
        BLOCK=tiles(problem.window_size, problem.dtype, problem.head_dim).forward,
    )
    pairs = problem.pairs(plan.groups) if want_pairs else None
    padding = problem.padding(plan.groups) if want_padding else None
    plan.launch(*inputs, pairs, padding)
    return pairs, padding


def _backward_large(
    problem: _Problem, inputs: tuple, want_padding: bool, want_pairs: bool
) -> tuple[Tensor | None, Tensor | None]:
    """A kernel for the queries and one for the keys; returns as :func:`_backward_small`."""
    tile = tiles(problem.window_size, problem.dtype, problem.head_dim)
    if major_capability(problem.device) == 10:  # two warps hold 32 rows
        tile = tile._replace(
            backward_queries=min(32, tile.backward_queries),
            backward_keys=min(32, tile.backward_keys),
        )
    statistics = problem.floats(problem.windows, problem.heads, 3, problem.tokens)
    tensors = (*inputs, statistics)
    problem.plan(
        "backward_queries", tensors, BLOCK=tile.backward_queries, TILES=tile.keys_backward
    ).launch(*tensors)
    sums = [torch.float32 if want else None for want in (want_pairs, want_padding)]
    plan = problem.plan(
        "backward_keys", (*tensors, *sums), BLOCK=tile.backward_keys, TILES=tile.queries
    )
    pairs = problem.pairs(plan.groups) if want_pairs else None
    padding = problem.padding(plan.groups * plan.blocks) if want_padding else None
    plan.launch(*tensors, pairs, padding)
    return pairs, padding
