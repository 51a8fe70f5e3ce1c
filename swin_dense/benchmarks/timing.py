"""Timing of contestants that take turns, so that what else the machine does meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

Step = Callable[..., Any]


@dataclass(frozen=True)
class Timing:
    """Seconds that one step took, turn by turn."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the turns took at most this."""
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the turns took less than the first, another more than the second."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def as_json(self) -> dict[str, Any]:
        """Milliseconds."""
        return {
            "median_ms": round(1e3 * self.median, 4),
            "quartiles_ms": [round(1e3 * value, 4) for value in self.quartiles],
            "turns": len(self.seconds),
        }


def interleave(
    steps: Mapping[str, Step],
    rounds: int,
    device: torch.device,
    least_seconds: float = 0.05,
    warm_up: bool = True,
) -> dict[str, Timing]:
    """Times steps in turns: A B C A B C ...

    Args:
        steps: by name.
        rounds: turns of each.
        device: waited for before and after each turn, if it is a GPU.
        least_seconds: a turn repeats its step until about this long, and counts the average.
        warm_up: run each step once or twice first, uncounted; without it no step is repeated.
    """
    repeats = dict.fromkeys(steps, 1)
    if warm_up:
        repeats = {name: _warm_up(step, device, least_seconds) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(_turn(step, repeats[name], device))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The p of ``seconds = c * sizes ** p``, by least squares of the logarithms.

    Raises:
        ValueError: fewer than two different sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"an exponent needs two sizes or more, got {len(set(sizes))}")
    x = torch.tensor(sizes, dtype=torch.float64).log()
    y = torch.tensor(seconds, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def _warm_up(step: Step, device: torch.device, least_seconds: float) -> int:
    """How often a turn should repeat the step."""
    first = _turn(step, 1, device)
    if first >= 20 * least_seconds:
        return 1  # long enough for start-up costs not to matter
    return max(1, round(least_seconds / _turn(step, 1, device)))


def _turn(step: Step, repeats: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
