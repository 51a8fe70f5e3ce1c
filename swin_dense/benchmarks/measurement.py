"""What a step costs: time, memory, launches; and how fast the machine could be (roofline)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from swin_dense.analysis.counting import count_model
from swin_dense.ops.dispatch import OperatorCounter, onednn_available, onednn_linear

Step = Callable[[], Any]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MEMORY = {"cuda": "peak of allocated memory", "cpu": "tensors kept for backward"}
LAUNCHES = {"cuda": "kernels", "cpu": "operators"}
# Backward multiplies twice what forward does: for the gradients of inputs and of weights.
_TRAINING_MACS = 3
# Forward reads a block's feature map and writes it. Backward reads the map and its gradient, and
# writes a gradient.
_FORWARD_MAPS, _TRAINING_MAPS = 2, 5


@dataclass(frozen=True)
class Run:
    """How to measure: images at a time, autocast's dtype, times that each model is timed, where."""

    batch: int
    dtype: str  # 'fp32', or 'fp16' or 'bf16' by autocast
    rounds: int
    device: torch.device

    def image(self, size: tuple[int, int], batch: int | None = None) -> Tensor:
        """Noise ``(batch, 3, H, W)``, the same on every call."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch if batch is None else batch, 3, *size)
        return torch.randn(shape, generator=generator).to(self.device)

    def precision(self) -> contextlib.AbstractContextManager:
        """Mixed precision in the run's dtype; nothing for float32."""
        if self.dtype == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.dtype])


@dataclass(frozen=True)
class Timing:
    """Seconds that one step took, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the rounds took at most this."""
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the rounds took less than the first, another more than the second."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(low), float(high)

    def as_json(self, ours: Timing | None = None) -> dict[str, Any]:
        """Milliseconds; and with ours, how many times as long this took."""
        record: dict[str, Any] = {
            "median_ms": round(1e3 * self.median, 4),
            "quartiles_ms": [round(1e3 * value, 4) for value in self.quartiles],
            "rounds": len(self.seconds),
        }
        return record | ({"times_ours": round(self.median / ours.median, 3)} if ours else {})


def interleave(
    steps: Mapping[str, Step],
    rounds: int,
    device: torch.device,
    least_seconds: float = 0.05,
    warm_up: bool = True,
    on_error: Callable[[str, Exception], None] | None = None,
) -> dict[str, Timing]:
    """Time steps one after the other, round by round: A B C A B C ...

    Other work on the machine then affects all of them. A step of less than a second is run once
    untimed each time: what ran before it, larger images for instance, has filled the caches.

    Args:
        steps: by name.
        rounds: how often each is timed.
        device: synchronized before and after each measurement, if it is a GPU.
        least_seconds: a step is repeated for about this long, and the average counts.
        warm_up: run steps untimed first; without it no step is repeated, in a round either.
        on_error: called with the name of a step that raises when it is first run, and its error;
            the step is left out. None raises the error.
    """

    def seconds_of(step: Step, repeats: int) -> float:
        _synchronize(device)
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        _synchronize(device)
        return (time.perf_counter() - start) / repeats

    def repeats_of(step: Step) -> tuple[int, bool]:
        if seconds_of(step, 1) >= 20 * least_seconds:
            return 1, False  # long enough for start-up costs not to matter
        return max(1, round(least_seconds / seconds_of(step, 1))), True

    repeats: dict[str, tuple[int, bool]] = {}
    for name, step in steps.items():
        try:
            repeats[name] = repeats_of(step) if warm_up else (1, False)
        except Exception as error:
            if on_error is None:
                raise
            on_error(name, error)
    seconds: dict[str, list[float]] = {name: [] for name in repeats}
    for _ in range(rounds):
        for name, (count, is_short) in repeats.items():
            if is_short:
                steps[name]()
            seconds[name].append(seconds_of(steps[name], count))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The p of ``seconds = c * sizes ** p``, by least squares of the logarithms.

    Raises:
        ValueError: fewer than two different sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"an exponent needs two sizes or more, got {len(set(sizes))}")
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def training_costs(model: nn.Module, step: Step, device: torch.device) -> dict[str, float]:
    """Launches and memory of a training step: ``launches`` and ``memory_mb``, in 1e6 bytes.

    On a GPU memory is the most that is allocated at a time during the step, plus the model's own
    parameters; what was allocated before is subtracted. On a CPU it is the tensors that forward
    keeps for backward, each storage once, without the parameters.
    """
    if device.type == "cuda":
        own = sum(p.numel() * p.element_size() for p in model.parameters())
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        memory = torch.cuda.max_memory_allocated(device) - before + own
        count = launches(step, device)
    else:  # both of one step: on a CPU that of a detector takes long
        with OperatorCounter() as operators:
            memory = kept_for_backward(model, step)
        count = operators.count
    return {"launches": count, "memory_mb": round(memory / 1e6, 1)}


def kept_for_backward(model: nn.Module, step: Step) -> int:
    """Bytes of the tensors that ``step`` keeps for backward, without the model's parameters.

    Where ``step`` runs backward too, and a block is recomputed there by reentrant checkpointing,
    what that keeps is counted with the rest.
    """
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    # Keeps the storages alive: freed memory may be allocated again, and would be counted once.
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and storage.data_ptr() not in kept:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values())


def launches(step: Step, device: torch.device) -> int:
    """Kernels that a step starts on a GPU; on a CPU, the operators that compute something."""
    if device.type != "cuda":
        with OperatorCounter() as operators:
            step()
        return operators.count
    from torch.profiler import ProfilerActivity, profile

    step()  # what is compiled or chosen on the first call is not counted
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA
    names = [event.name for event in found.events() if event.device_type == kind]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in names)


class Rates(NamedTuple):
    """Peak rates of the machine: bytes copied and floating-point operations a second."""

    copy: float
    matmul: float

    def at_best(self, other: Rates) -> Rates:
        """The higher rates of two measurements, either of which may have been disturbed."""
        return Rates(max(self.copy, other.copy), max(self.matmul, other.matmul))

    def as_json(self) -> dict[str, float]:
        """Gigabytes a second, read and written, and 1e9 floating-point operations a second."""
        return {"copy_gb_s": round(self.copy / 1e9, 1), "matmul_gflop_s": round(self.matmul / 1e9)}


class Work(NamedTuple):
    """The least work of a step: multiply-accumulates, and bytes of feature maps to copy."""

    macs: float
    bytes: float

    def least_seconds(self, rates: Rates) -> float:
        """The roofline: products at full rate, or copies at full rate, whichever takes longer."""
        return max(2 * self.macs / rates.matmul, self.bytes / rates.copy)


def measure_rates(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> Rates:
    """Time a large copy and a large matrix product."""
    size, side = (2**30, 8192) if device.type == "cuda" else (2**26, 1024)  # bytes, channels
    source = torch.randn(size // dtype.itemsize, device=device).to(dtype)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    steps: dict[str, Step] = {"copy": lambda: target.copy_(source), "matmul": lambda: a @ b}
    # On some CPUs much faster than what a plain product uses.
    if device.type == "cpu" and onednn_available():
        steps["oneDNN"] = lambda: onednn_linear(a, b, None, "none")
    times = interleave(steps, rounds, device)
    copied = 2 * source.numel() * source.element_size()
    # The best round and library: this is a limit, not an expectation.
    copy, *products = (min(timing.seconds) for timing in times.values())
    return Rates(copied / copy, 2 * side**3 / min(products))


def backbone_work(
    backbone: nn.Module, size: tuple[int, int], batch: int, dtype: torch.dtype
) -> dict[str, Work]:
    """Work of 'forward' and 'training' (forward and backward) with feature maps of ``dtype``.

    ``backbone`` is a :class:`swin_dense.SwinTransformer` on the meta device.
    """
    model: Any = backbone
    macs = batch * count_model(backbone, lambda model, image: model(image), size).macs
    elements = 0
    for i, stage in enumerate(model.stages):
        rows, columns = (-(-side // (4 * 2**i)) for side in size)
        elements += rows * columns * model.num_features[i] * len(stage.blocks)
    maps = elements * dtype.itemsize * batch
    return {
        "forward": Work(macs, _FORWARD_MAPS * maps),
        "training": Work(_TRAINING_MACS * macs, _TRAINING_MAPS * maps),
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
