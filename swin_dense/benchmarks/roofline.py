"""How fast the machine could be: its matrix products and copies, and what Swin asks of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from swin_dense.analysis.counting import count_model
from swin_dense.benchmarks.timing import Step, interleave

# Backward multiplies twice what forward does: for the gradient of inputs and of weights.
_TRAINING_MACS = 3
# Forward reads a block's map and writes it. Backward reads the map and its gradient, and writes a
# gradient.
_FORWARD_MAPS, _TRAINING_MAPS = 2, 5


@dataclass(frozen=True)
class Rates:
    """What the machine does when it does nothing else."""

    copy: float
    matmul: float

    def at_best(self, other: Rates) -> Rates:
        """The faster of two measurements: the other one was disturbed."""
        return Rates(max(self.copy, other.copy), max(self.matmul, other.matmul))

    def as_json(self) -> dict[str, float]:
        """Gigabytes a second, read and written, and 1e9 floating-point operations a second."""
        return {"copy_gb_s": round(self.copy / 1e9, 1), "matmul_gflop_s": round(self.matmul / 1e9)}


@dataclass(frozen=True)
class Work:
    """What a step cannot do without.

    Attributes:
        macs: multiply-accumulates of matrix products and convolutions.
        bytes: of the maps between the blocks, read and written once each.
    """

    macs: float
    bytes: float

    def least_seconds(self, rates: Rates) -> float:
        """The roofline: products at full rate, or copies at full rate, whichever takes longer."""
        return max(2 * self.macs / rates.matmul, self.bytes / rates.copy)


def measure_rates(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> Rates:
    """Times a large copy and a large matrix product."""
    large = device.type == "cuda"
    numbers, side = (2**29, 8192) if large else (2**24, 1024)
    source = torch.randn(numbers, device=device).to(dtype)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    steps: dict[str, Step] = {"copy": lambda: target.copy_(source), "matmul": lambda: a @ b}
    if device.type == "cpu" and (linear := _onednn_linear()):
        steps["oneDNN"] = lambda: linear(a, b, None, "none", [], "")
    times = interleave(steps, rounds, device)
    copied = 2 * source.numel() * source.element_size()
    # The best turn and library: this is a limit, not an expectation.
    fastest = min(min(times[name].seconds) for name in steps if name != "copy")
    return Rates(copied / min(times["copy"].seconds), 2 * side**3 / fastest)


def _onednn_linear() -> Step | None:
    """oneDNN's product, on some CPUs much faster than what a plain product uses; if it is there."""
    try:
        return torch.ops.mkldnn._linear_pointwise
    except (AttributeError, RuntimeError):
        return None


def backbone_work(
    backbone: nn.Module, size: tuple[int, int], batch: int, dtype: torch.dtype
) -> dict[str, Work]:
    """Work of 'forward' and 'training' (forward and backward).

    Args:
        backbone: a :class:`swin_dense.SwinTransformer` on the meta device.
        size: height and width in pixels.
        batch: images at a time.
        dtype: of the maps.
    """
    stages: Any = backbone.stages
    counts = count_model(backbone, lambda model, image: model(image), size)
    elements = 0
    for i, stage in enumerate(stages):
        rows, columns = (-(-side // (4 * 2**i)) for side in size)
        elements += rows * columns * int(backbone.num_features[i]) * len(stage.blocks)  # type: ignore[index]
    size_of = torch.empty((), dtype=dtype).element_size()
    maps = elements * size_of * batch
    return {
        "forward": Work(counts.macs * batch, _FORWARD_MAPS * maps),
        "training": Work(_TRAINING_MACS * counts.macs * batch, _TRAINING_MAPS * maps),
    }
