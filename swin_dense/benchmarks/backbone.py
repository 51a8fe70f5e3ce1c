"""The backbone against those of other libraries: time, memory, launches, share of the roofline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.benchmarks import costs
from swin_dense.benchmarks.agreement import DTYPES, TOLERANCES, differences, precision
from swin_dense.benchmarks.baselines import OURS, Spec, build_contestants, build_ours
from swin_dense.benchmarks.roofline import Rates, backbone_work, measure_rates
from swin_dense.benchmarks.timing import Timing, interleave
from swin_dense.errors import UserError

PHASES = ("forward", "training")
# Its classes are the dense prediction code itself, so it has to agree at every size.
_SAME_AT_EVERY_SIZE = ("mmdet",)


@dataclass(frozen=True)
class Run:
    """How to measure.

    Attributes:
        batch: images at a time.
        dtype: 'fp32', or 'fp16' or 'bf16' by autocast.
        rounds: turns of each contestant.
        device: where.
    """

    batch: int
    dtype: str
    rounds: int
    device: torch.device

    def image(self, size: tuple[int, int], batch: int | None = None) -> Tensor:
        """Noise ``(batch, 3, H, W)``, the same on every call."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch if batch is None else batch, 3, *size)
        return torch.randn(shape, generator=generator).to(self.device)


def measure_backbone(spec: Spec, names: Mapping[str, str], run: Run) -> dict[str, Any]:
    """Check that all contestants agree, then time them in turns.

    Args:
        spec: the model.
        names: peers, and their versions.
        run: how to measure.

    Returns:
        ``settings``, ``rates``, and ``contestants``: for each its ``difference`` from ours, a
        ``note`` where that is one of definition, and time, launches, memory.

    Raises:
        UserError: outputs disagree; nothing is timed then.
    """
    found = check_agreement(spec, list(names), run)
    models = build_contestants(spec, list(names), run.device)
    image = run.image(spec.size)
    rates = measure_rates(run.device, DTYPES[run.dtype])
    records: dict[str, dict[str, Any]] = {
        name: {"name": name, "version": names.get(name), **found.get(name, {})} for name in models
    }
    times: dict[str, dict[str, Timing]] = {}
    for phase in PHASES:
        steps = {name: make_step(model, image, run, phase) for name, model in models.items()}
        times[phase] = interleave(steps, run.rounds, run.device)
    for phase in PHASES:  # after all timing: what is looked at is not compiled any more on a CPU
        for name, model in models.items():
            step = make_step(model, image, run, phase)
            if phase == "training":
                records[name][phase] = costs.training_costs(model, step, run.device)
            else:
                records[name][phase] = {"launches": costs.launches(step, run.device)}
            if spec.compile and run.device.type == "cpu":
                records[name][phase]["launches"] = None
    rates = rates.at_best(measure_rates(run.device, DTYPES[run.dtype]))
    least = _least_seconds(spec, run, rates)
    for phase in PHASES:
        for name, timing in times[phase].items():
            records[name][phase] |= _record(timing, times[phase][OURS], least[phase])
    return {
        "settings": settings(spec, run),
        "rates": rates.as_json(),
        "roofline_ms": {phase: round(1e3 * seconds, 4) for phase, seconds in least.items()},
        "contestants": list(records.values()),
    }


def check_agreement(spec: Spec, names: list[str], run: Run) -> dict[str, dict[str, Any]]:
    """Compare outputs and the gradient of the image, of one image, with ours.

    At sizes that are not whole windows, libraries for classification are other functions than
    dense prediction code. Their weights and blocks are then checked at a size where all agree.

    Returns:
        Of each peer: ``difference``, ``checked_at`` (height, width), and perhaps a ``note``.

    Raises:
        UserError: a peer does not agree where it should.
    """
    check = spec
    if not spec.whole_windows:
        side = 64 * spec.window_size
        check = replace(spec, size=(side, side))
    records: dict[str, dict[str, Any]] = {}
    for name, error in _differences(spec, names, run).items():
        records[name] = {"difference": error, "checked_at": list(spec.size)}
    differing = [n for n in names if records[n]["difference"] > TOLERANCES[DTYPES[run.dtype]]]
    excused = [n for n in differing if check is not spec and n not in _SAME_AT_EVERY_SIZE]
    for name, error in (_differences(check, excused, run) if excused else {}).items():
        there = records[name]["difference"]
        note = f"differs by {there:.1g} at the timed size, by definition (windows at the edges)"
        records[name] = {"difference": error, "checked_at": list(check.size), "note": note}
    for name, record in records.items():
        height, width = record["checked_at"]
        if not record["difference"] <= TOLERANCES[DTYPES[run.dtype]]:
            raise UserError(
                f"{name} and ours disagree by {record['difference']:.1g} at {height}x{width}, "
                f"{run.dtype}, with the same weights: nothing was timed"
            )
        record["difference"] = float(f"{record['difference']:.2g}")
    return records


def _differences(spec: Spec, names: list[str], run: Run) -> dict[str, float]:
    if not names:
        return {}
    models = build_contestants(spec, names, run.device)
    return differences(models, run.image(spec.size, batch=1), DTYPES[run.dtype])


def make_step(model: nn.Module, image: Tensor, run: Run, phase: str) -> Callable[[], Any]:
    """A step to time: 'forward' without gradients, or 'training', forward and backward."""
    dtype = DTYPES[run.dtype]

    def forward() -> Any:
        with torch.no_grad(), precision(dtype, run.device):
            return model(image)

    def training() -> None:
        model.zero_grad(set_to_none=True)
        with precision(dtype, run.device):
            maps = model(image)
        torch.autograd.backward(maps, [torch.ones_like(x) for x in maps])

    model.train(phase == "training")
    return forward if phase == "forward" else training


def settings(spec: Spec, run: Run) -> dict[str, Any]:
    """What was measured, for the record."""
    chosen = asdict(spec) | {"batch": run.batch, "dtype": run.dtype, "rounds": run.rounds}
    # lists, as JSON reads them back
    return {key: list(v) if isinstance(v, tuple) else v for key, v in chosen.items()}


def _least_seconds(spec: Spec, run: Run, rates: Rates) -> dict[str, float]:
    with torch.device("meta"):
        plain = replace(spec, attn_impl="reference", cuda_graphs=0, compile=False)
        model = build_ours(plain).eval()
    work = backbone_work(model, spec.size, run.batch, DTYPES[run.dtype])
    return {phase: work[phase].least_seconds(rates) for phase in PHASES}


def _record(timing: Timing, ours: Timing, least: float) -> dict[str, Any]:
    record = timing.as_json()
    record["times_ours"] = round(timing.median / ours.median, 3)
    record["roofline_share"] = round(least / timing.median, 4)
    return record
