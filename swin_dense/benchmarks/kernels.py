"""What every Triton kernel of the package takes of a GPU, found without one; with one, its time."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import torch

from swin_dense.analysis.machine import describe_machine
from swin_dense.benchmarks.kernel_calls import (
    Call,
    Inputs,
    all_calls,
    changed_schedules,
    other_schedules,
)
from swin_dense.benchmarks.kernel_code import SCHEDULERS, Launch, Target, check_compiler
from swin_dense.benchmarks.measurement import DTYPES, Step, Timing, interleave, measure_rates
from swin_dense.errors import UserError

ISSUE_SLOTS = (
    "Slots: SASS instructions that a warp issues in one pass through the kernel's main loop (of "
    "attention a window, of products a chunk of features, of a norm's backward a block of rows): "
    "all from the target of the longest backward branch to that branch, on either side of "
    "conditions, an inner loop as often as it runs in the pass; of several loops each, the longest "
    "first; of a kernel without a loop, all."
)
_PER_SM = (
    "Per SM: programs that a multiprocessor of the target holds, by registers, shared memory and "
    "warps; 0 if a program does not fit. Spill: bytes of a thread. Shared: bytes of a program."
)
_CYCLES = (
    "Waves: programs over those that the GPU holds at a time. Kcycles: 1000 cycles in which each "
    "of a multiprocessor's four schedulers issues, if waves are full and all passes are through "
    "the longest loop: slots x warps x programs per SM x waves / 4. It is no time. Schedules are "
    "sorted by it, or by the time if that was measured; waiting for spilled registers is not in it."
)
_ROOFLINE = (
    "Roofline: the part of the time that moving every tensor once takes, at {:.0f} GB/s, which "
    "copies were measured to reach."
)
_KEPT_SCHEDULES = 4


class Clock(NamedTuple):
    """A GPU of the target, and how its kernels are timed.

    Attributes:
        device: of the tensors.
        time: times steps by name, in turns.
        copy_rate: bytes a second, read and written, of a copy: the roofline.
    """

    device: torch.device
    time: Callable[[Mapping[str, Step]], Mapping[str, Timing]]
    copy_rate: float


def find_clock(target: Target, dtype: str, rounds: int) -> Clock | None:
    """The current GPU if it is one of the target's, else None: nothing is timed."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != target.capability:
        return None
    device = torch.device("cuda", torch.cuda.current_device())
    time = partial(interleave, rounds=rounds, device=device)
    return Clock(device, time, measure_rates(device, DTYPES[dtype]).copy)


@dataclass(frozen=True)
class KernelRun:
    """What to compile and how.

    Attributes:
        target: GPU to compile for.
        dtype: 'fp32', 'fp16' or 'bf16'.
        only: part of the names of calls that are wanted.
        sweep: whether to try other schedules too.
        clock: times the kernels; None where no GPU of the target is there.
        on_call: told the name of each call before it is compiled.
    """

    target: Target
    dtype: str
    only: str = ""
    sweep: bool = False
    clock: Clock | None = None
    on_call: Callable[[str], object] = str

    @property
    def inputs(self) -> Inputs:
        """Tensors without data, unless they are needed."""
        device = self.clock.device if self.clock else torch.device("meta")
        return Inputs(DTYPES[self.dtype], device)

    @property
    def calls(self) -> list[Call]:
        """Those that are wanted.

        Raises:
            UserError: there is none.
        """
        found = [call for call in all_calls() if self.only in call.name]
        if not found:
            raise UserError(
                f"--only {self.only!r}: no kernel has this in its name, such as 'mlp C=96'"
            )
        return found


def measure_kernels(run: KernelRun) -> dict[str, Any]:
    """Compile kernels for a target, and time them if there is a GPU of it.

    Raises:
        UserError: no kernel is wanted or can be compiled.
    """
    check_compiler()
    record: dict[str, Any] = {
        "settings": {
            "target": run.target.name,
            "dtype": run.dtype,
            "only": run.only,
            "sweep": run.sweep,
        },
        "limits": asdict(run.target),
        "triton": version("triton"),
        "kernels": _measure_sweep(run) if run.sweep else _measure_defaults(run),
    }
    if run.clock is not None:
        machine = {"device": "cuda", "name": describe_machine(run.clock.device)}
        return record | {"machine": machine, "copy_gb_s": round(run.clock.copy_rate / 1e9, 1)}
    name = f"compiled for {run.target.name} ({run.target.gpu}), no GPU"
    return record | {"machine": {"device": "compiled", "name": name}}


def _measure_defaults(run: KernelRun) -> list[dict[str, Any]]:
    rows = []
    for _, calls in itertools.groupby(run.calls, key=lambda call: call.group):
        launches: dict[str, Launch] = {}
        for call in calls:
            run.on_call(call.name)
            launches |= call.launches(call.prepare(run.inputs), run.target)
        times = _times(run, launches)
        for name, launch in launches.items():
            rows.append({"name": name, **describe(launch, run.target), **times.get(name, {})})
    return rows


def describe(launch: Launch, target: Target) -> dict[str, Any]:
    """What a compiled kernel takes: see :data:`ISSUE_SLOTS` and the document's notes."""
    code, warps = launch.code, launch.options.num_warps
    shared = launch.options.shared
    per_sm, limit = target.programs_per_sm(code.registers, shared, warps)
    passes, inner = launch.passes
    (slots, *others), outside = code.sass.issue_slots(inner)
    found = {
        "kernel": launch.name,
        "registers": code.registers,
        "spilled_bytes": code.spilled_bytes,
        "shared_bytes": shared,
        "warps": warps,
        "programs_per_sm": per_sm,
        "limited_by": limit,
        "issue_slots": slots,
        "slots_of_other_loops": others,
        "slots_outside": outside,
        "passes": passes,
        "programs": launch.programs,
        "schedule": launch.schedule,
    }
    if per_sm == 0:
        return found
    waves = launch.programs / (target.multiprocessors * per_sm)
    resident = min(per_sm, math.ceil(launch.programs / target.multiprocessors))
    rounds = resident * math.ceil(waves)
    cycles = (outside + passes * slots) * warps * rounds / SCHEDULERS
    return found | {"waves": round(waves, 2), "issue_kcycles": round(cycles / 1e3, 1)}


def _times(run: KernelRun, launches: Mapping[str, Launch]) -> dict[str, dict[str, Any]]:
    """Times of launches by name, and how near they come to the roofline.

    The share is ``bytes / rate / median``: bytes of all tensors that a kernel is given, each read
    or written once (:attr:`Launch.bytes_moved`), at the rate of a copy.
    """
    if run.clock is None:
        return {}
    fitting = {name: one for name, one in launches.items() if _fits(one, run.target)}
    found = {}
    for name, timing in run.clock.time({k: one.run for k, one in fitting.items()}).items():
        moved = fitting[name].bytes_moved
        share = moved / run.clock.copy_rate / timing.median
        found[name] = {
            **timing.as_json(),
            "gb_s": round(moved / timing.median / 1e9, 1),
            "roofline_share": round(share, 4),
        }
    return found


def _fits(launch: Launch, target: Target) -> bool:
    found = launch.code.registers, launch.options.shared, launch.options.num_warps
    return target.programs_per_sm(*found)[0] > 0


def _measure_sweep(run: KernelRun) -> list[dict[str, Any]]:
    """For each kernel the default schedule, then the best others."""
    rows: list[dict[str, Any]] = []
    for call in run.calls:
        for default, *others in _schedules(run, call).values():
            best = sorted((row for row in others if "waves" in row), key=_cost)
            rows += [default | {"default": True}, *best[:_KEPT_SCHEDULES]]
    return rows


def _schedules(run: KernelRun, call: Call) -> dict[str, list[dict[str, Any]]]:
    """Rows of each kernel of a call, by its name: the default schedule first."""
    run.on_call(call.name)
    step = call.prepare(run.inputs)
    with changed_schedules({}) as defaults:
        usual = call.launches(step, run.target)
    found = {name: [_row(run, name, launch, launch)] for name, launch in usual.items()}
    for changes in other_schedules(defaults):
        try:
            with changed_schedules(changes):
                launches = call.launches(step, run.target)
        except UserError:
            continue  # more than the compiler can do
        for name, launch in launches.items():
            if all(row["schedule"] != launch.schedule for row in found[name]):
                run.on_call(f"{name}: {schedule_text(launch.schedule)}")
                found[name].append(_row(run, name, launch, usual[name]))
    return found


def _row(run: KernelRun, name: str, launch: Launch, usual: Launch) -> dict[str, Any]:
    """A schedule, timed in turns with the default one."""
    times = _times(run, {"default": usual, name: launch}).get(name, {})
    return {"name": name, **describe(launch, run.target), **times}


def _cost(row: Mapping[str, Any]) -> float:
    return row.get("median_ms", row["issue_kcycles"])


def schedule_text(schedule: Mapping[str, int]) -> str:
    """A schedule in a line, without what follows from the kernel's width."""
    words = {k.lower(): v for k, v in schedule.items() if k not in ("COLUMNS", "TILES")}
    return " ".join(f"{name} {value}" for name, value in words.items())


def kernel_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Headings, and a row of cells for each kernel, or for each schedule of one."""
    kernels = record["kernels"]
    timed = any("median_ms" in one for one in kernels)
    swept = any("default" in one for one in kernels)
    # In 80 columns there is no room for the waves of what was timed.
    costs = (
        {"issue_kcycles": "kcycles"} if timed else {"waves": "waves", "issue_kcycles": "kcycles"}
    )
    headings = ["", "regs", "spill", "shared", "warps", "per SM", "slots"]
    if swept:
        headings = ["", "regs", "spill", "per SM", "slots", *costs.values()]
    rows = [headings + (["ms", "roofline"] if timed else [])]
    for one in kernels:
        row = [one["name"], str(one["registers"]), str(one["spilled_bytes"])]
        slots = "/".join(map(str, [one["issue_slots"], *one["slots_of_other_loops"]]))
        cost = [str(one["programs_per_sm"]), slots]
        if swept:
            default = " (default)" if "default" in one else ""
            row[0] += f": {schedule_text(one['schedule'])}{default}"
            row += [*cost, *(str(one.get(key, "")) for key in costs)]
        else:
            row += [str(one["shared_bytes"]), str(one["warps"]), *cost]
        if "median_ms" in one:
            row += [f"{one['median_ms']:.3g}", f"{one['roofline_share']:.0%}"]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    return rows


def kernel_notes(record: Mapping[str, Any]) -> list[str]:
    """What the columns of a record's table are."""
    notes = [ISSUE_SLOTS, _PER_SM]
    if any("default" in one for one in record["kernels"]):
        notes.append(_CYCLES)
    if "copy_gb_s" in record:
        notes.append(_ROOFLINE.format(record["copy_gb_s"]))
    return [*notes, f"Compiled by triton {record['triton']}."]
