"""Triton kernels compiled for a GPU that need not be there, and what their machine code takes.

:func:`record_launches` replaces Triton's driver by one that compiles for a target and runs nothing.
So what is examined is what the package launches: its arguments, constants, schedules and programs.
Importing this does not import Triton.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor

from swin_dense.errors import UserError
from swin_dense.ops import triton_support

# Of all targets: registers of a multiprocessor, what a warp's are rounded up to, schedulers (each
# has its part of the registers), unit of shared memory, and bytes of it that a program loses to
# the system. From cuda_occupancy.h, which Triton brings (backends/nvidia/include).
REGISTERS = 65536
REGISTER_UNIT = 256
SCHEDULERS = 4
SHARED_UNIT = 128
RESERVED_SHARED = 1024
# Constants by which launches tell a kernel its tiles.
TILE_CONSTANTS = ("ROWS", "CHUNK", "COLUMNS", "BLOCK", "TILES")


@dataclass(frozen=True)
class Target:
    """What a GPU's multiprocessor holds.

    Source: "Technical Specifications per Compute Capability" in NVIDIA's CUDA C++ Programming
    Guide (warps, shared memory), cuda_occupancy.h (programs), and data sheets (multiprocessors).

    Attributes:
        name: as ptxas calls it: 'sm_90'.
        gpu: a product, whose number of multiprocessors is taken for the programs of a launch.
        multiprocessors: of that product.
        warps: that a multiprocessor holds.
        programs: that it holds (thread blocks).
        shared_memory: in bytes, of a multiprocessor; a program can have 1 KB less.
    """

    name: str
    gpu: str
    multiprocessors: int
    warps: int
    programs: int
    shared_memory: int

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability: major, minor."""
        return divmod(int(self.name.removeprefix("sm_")), 10)

    @property
    def properties(self) -> SimpleNamespace:
        """What launches ask of a GPU, by the names of ``torch.cuda.get_device_properties``."""
        return SimpleNamespace(
            major=self.capability[0],
            multi_processor_count=self.multiprocessors,
            regs_per_multiprocessor=REGISTERS,
            warp_size=32,
            max_threads_per_multi_processor=32 * self.warps,
            shared_memory_per_multiprocessor=self.shared_memory,
            shared_memory_per_block_optin=self.shared_memory - RESERVED_SHARED,
        )

    def programs_per_sm(self, registers: int, shared_bytes: int, warps: int) -> tuple[int, str]:
        """Programs that a multiprocessor holds at a time, and what limits them; 0 if none fits.

        Args:
            registers: of a thread.
            shared_bytes: of a program, without what the system takes.
            warps: of a program.
        """
        per_warp = _round_up(32 * registers, REGISTER_UNIT)
        # Registers are divided among the schedulers, and a launch is checked for all of them.
        resident = REGISTERS // SCHEDULERS // per_warp * SCHEDULERS
        fits = per_warp * _round_up(warps, SCHEDULERS) <= REGISTERS
        shared = _round_up(shared_bytes + RESERVED_SHARED, SHARED_UNIT)
        limits = {
            "registers": resident // warps if fits else 0,
            "shared memory": self.shared_memory // shared,
            "warps": self.warps // warps,
            "programs": self.programs,
        }
        least = min(limits, key=lambda name: limits[name])
        return limits[least], least


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "A100", 108, 64, 32, 164 * 1024),
        Target("sm_86", "GeForce RTX 3090", 82, 48, 16, 100 * 1024),
        Target("sm_89", "GeForce RTX 4090", 128, 48, 24, 100 * 1024),
        Target("sm_90", "H100 SXM, H200", 132, 64, 32, 228 * 1024),
        Target("sm_100", "B200", 148, 64, 32, 228 * 1024),
        Target("sm_120", "GeForce RTX 5090", 170, 48, 24, 100 * 1024),
    )
}


def parse_target(name: str) -> Target:
    """The target of this name.

    Raises:
        UserError: there is none.
    """
    if name not in TARGETS:
        raise UserError(f"unknown --target {name!r}: choose one of {', '.join(TARGETS)}")
    return TARGETS[name]


class Sass(NamedTuple):
    """Machine code of a kernel: how many instructions, and the first and last of its loops."""

    instructions: int
    loops: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> Sass:
        """Read what ``nvdisasm -c`` prints.

        A branch to an earlier instruction ends a loop. A branch to itself is where the code ends:
        behind it there is only padding.
        """
        labels: dict[str, int] = {}
        branches = []
        count, end = 0, None
        for line in text.splitlines():
            if label := re.match(r"(\.L_x_\d+):", line):
                labels[label[1]] = count
            elif code := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
                if branch := re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", code[1]):
                    branches.append((branch[1], count))
                count += 1
        loops = []
        for label_name, last in branches:
            first = labels[label_name]
            if first == last:
                end = last if end is None else min(end, last)
            elif first < last:
                loops.append((first, last))
        return cls(count if end is None else end, tuple(sorted(loops)))

    def issue_slots(self, inner_passes: int = 1) -> tuple[list[int], int]:
        """Instructions of one pass through each of the main loops, and of all that is in none.

        Main loops are those that are in no other, but for waits of less than a tenth of the longest
        one's instructions; the longest comes first. Every instruction counts once, whichever way
        branches in the loop go; those of an inner loop count ``inner_passes`` times. A kernel
        without a loop is one pass.
        """
        outer = sorted(_outermost(self.loops), key=_length, reverse=True)
        outer = [loop for loop in outer if 10 * _length(loop) >= _length(outer[0])]
        if not outer:
            return [self.instructions], 0
        slots = []
        for loop in outer:
            within = [one for one in self.loops if _is_inside(one, loop) and one[0] > loop[0]]
            more = sum(map(_length, _outermost(within))) * (inner_passes - 1)
            slots.append(_length(loop) + more)
        return slots, self.instructions - sum(map(_length, outer))


class Code(NamedTuple):
    """What ptxas made of a kernel: registers of a thread, bytes that it spills, instructions.

    Kernels have no arrays, so that all of their stack is spilled registers.
    """

    registers: int
    spilled_bytes: int
    sass: Sass


@cache
def read_code(cubin: bytes) -> Code:
    """Read a compiled kernel with the tools that Triton brings."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _output(knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        sass = _output(knobs.nvidia.nvdisasm.path, "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise ValueError(f"cuobjdump tells no registers: {usage}")
    return Code(int(found[1]), int(found[2]), Sass.parse(sass))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Launch:
    """A kernel that was launched, compiled for a target.

    Attributes:
        kernel: Triton's function.
        options: what it was compiled with: ``num_warps``, ``num_stages``, ``shared`` and more.
        cubin: the machine code.
        grid: programs in each direction.
        arguments: by name, tensors and constants included.
    """

    kernel: Any
    options: Any
    cubin: bytes
    grid: tuple[int, int, int]
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the kernel's function."""
        return self.kernel.__name__

    @property
    def programs(self) -> int:
        """How many are launched."""
        return math.prod(self.grid)

    @cached_property
    def code(self) -> Code:
        """What its machine code takes."""
        return read_code(self.cubin)

    @property
    def schedule(self) -> dict[str, Any]:
        """Tiles, warps and stages."""
        tiles = {key: self.arguments[key] for key in TILE_CONSTANTS if key in self.arguments}
        return tiles | {"warps": self.options.num_warps, "stages": self.options.num_stages}

    @property
    def passes(self) -> tuple[int, int]:
        """How often a program's main loop runs, at most, and a loop within it in each of these.

        Attention takes a window in a pass, products a chunk of features, backward of a norm a
        block of rows; other kernels have no loop.
        """
        found = self.arguments
        if "n_windows" in found:
            tokens = found["M"] ** 2
            groups = self.programs // (found["heads"] * _blocks(tokens, found["BLOCK"]))
            return _blocks(found["n_windows"], max(1, groups)), 1
        for features in ("HIDDEN", "FEATURES"):
            if features in found:
                return found[features] // found["CHUNK"], 1
        if "ROWS" in found:
            blocks = found.get("n_blocks") or _blocks(found["n_rows"], found["ROWS"])
            return _blocks(blocks, self.grid[0]), 1
        return 1, 1

    @property
    def bytes_moved(self) -> int:
        """Bytes that have to be read or written: every tensor among the arguments, once.

        One that is given twice is read and written. Of ``d_qkv`` the kernels of large windows write
        a third (queries) and two thirds (keys).
        """
        parts = {"backward_queries": 1 / 3, "backward_keys": 2 / 3}
        tensors = {k: t for k, t in self.arguments.items() if isinstance(t, Tensor)}
        total = 0.0
        for name, tensor in tensors.items():
            part = parts.get(self.name, 1) if name == "d_qkv" else 1
            total += part * tensor.numel() * tensor.element_size()
        return round(total)

    def run(self) -> None:
        """Launch it on its tensors' GPU."""
        names = ("num_warps", "num_stages", "maxnreg")
        chosen = {key: getattr(self.options, key) for key in names}
        self.kernel[self.grid](**self.arguments, **chosen)


class _CompilingDriver:
    """Triton's driver for a GPU that is not there: launches are compiled and kept, not run."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.launches: list[Launch] = []
        self.utils = self

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        major, minor = self.target.capability
        return GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_device(self) -> Any:
        return self  # Triton caches kernels by device

    def get_current_stream(self, device: Any) -> int:
        return 0

    def get_device_properties(self, device: Any) -> dict[str, int]:
        # What does not fit is compiled too: the report says that it does not.
        return {"max_shared_mem": 2**30}

    def load_binary(self, name: str, cubin: bytes, shared: int, device: Any) -> tuple:
        code = read_code(cubin)
        return cubin, cubin, code.registers, code.spilled_bytes // 4, 1024

    def launcher_cls(self, source: Any, options: Any) -> Callable[..., None]:
        def keep(x: int, y: int, z: int, stream: int, cubin: bytes, *others: Any) -> None:
            values = others[len(others) - len(source.fn.arg_names) :]
            arguments = dict(zip(source.fn.arg_names, values, strict=True))
            self.launches.append(Launch(source.fn, options, cubin, (x, y, z), arguments))

        return keep


_driver = cache(_CompilingDriver)


@contextmanager
def _compiling(target: Target) -> Iterator[_CompilingDriver]:
    from triton.runtime import driver

    ours = _driver(target)
    driver.set_active(ours)  # type: ignore[arg-type]
    try:
        with triton_support.compiling_for(target.properties):
            yield ours
    finally:
        driver.set_active(None)  # type: ignore[arg-type]  # its own, when it is needed
        ours.launches = []


def check_compiler() -> None:
    """Make sure that kernels can be compiled in this process.

    Raises:
        UserError: Triton is not installed, or was told to interpret kernels.
    """
    if reason := triton_support.unavailable_reason():
        raise UserError(f"compiling kernels {reason}")
    if triton_support.interpreted():
        raise UserError("TRITON_INTERPRET is set, so that no kernel is compiled: unset it")


def record_launches(function: Callable[[], object], target: Target) -> list[Launch]:
    """The kernels that a function launches, compiled for a target and not run.

    Its tensors may be on the meta device, or on a GPU if the launches are to be run later; results
    that the function computes from a kernel's are meaningless. Needs what :func:`check_compiler`
    checks.
    """
    with _compiling(target) as driver:
        function()
        return driver.launches


def _blocks(value: int, size: int) -> int:
    return -(-value // size)


def _round_up(value: int, unit: int) -> int:
    return _blocks(value, unit) * unit


def _outermost(loops: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    return [a for a in set(loops) if not any(_is_inside(a, b) for b in loops)]


def _is_inside(loop: tuple[int, int], other: tuple[int, int]) -> bool:
    return loop != other and other[0] <= loop[0] and loop[1] <= other[1]


def _length(loop: tuple[int, int]) -> int:
    return loop[1] - loop[0] + 1
