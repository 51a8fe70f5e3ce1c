"""The backbone against those of other libraries: a step, memory kept, time against pixels."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.benchmarks.baselines import (
    OURS,
    OURS_FP32,
    Spec,
    build_models,
    build_ours,
    check_agreement,
    check_baselines,
)
from swin_dense.benchmarks.measurement import (
    DTYPES,
    Rates,
    Run,
    Timing,
    backbone_work,
    exponent,
    interleave,
    kept_for_backward,
    launches,
    measure_rates,
    training_costs,
)
from swin_dense.errors import reason_of

PHASES = ("forward", "training")
SIDES = {"cuda": (512, 768, 1024, 1280, 1536, 1792, 2048), "cpu": (256, 384, 512, 640, 768)}
_BASELINE = "mmdet"  # of memory
# Whatever the size, mmdet's outputs are ours, and as much is kept once.
_SMALL = (64, 96)


def measure_backbone(
    spec: Spec, versions: Mapping[str, str], run: Run, fp32: bool = False
) -> dict[str, Any]:
    """Check that ours and the baselines of ``versions`` agree, then time them alternately.

    Args:
        spec: the model.
        versions: of the baselines, by name.
        run: how to measure.
        fp32: also time ours in float32, without autocast, as :data:`OURS_FP32`.

    Returns:
        ``settings``, ``rates``, and ``models``, ours and the baselines: for each its
        ``difference`` from ours, a ``note`` where that is one of definition, and time, launches,
        memory; ``failed``: the errors of baselines that did not run, by name.

    Raises:
        UserError: outputs disagree; nothing is timed then.
    """
    found, failed = check_baselines(spec, versions, run)
    models = build_models(spec, found, run.device)
    runs = dict.fromkeys(models, run)
    if fp32:
        models[OURS_FP32] = models[OURS]
        runs[OURS_FP32] = replace(run, dtype="fp32")
    image = run.image(spec.size)
    dtypes = {one.dtype: DTYPES[one.dtype] for one in runs.values()}
    rates = {name: measure_rates(run.device, dtype) for name, dtype in dtypes.items()}
    times: dict[str, dict[str, Timing]] = {}
    for phase in PHASES:
        steps = {name: make_step(models[name], image, runs[name], phase) for name in models}
        times[phase] = interleave(steps, run.rounds, run.device, on_error=_Failures(failed))
    records = {name: _record(name, versions, found) for name in models if name not in failed}
    for name, record in records.items():  # after all timing: counting stops compilation on a CPU
        step = make_step(models[name], image, runs[name], "forward")
        record["forward"] = {"launches": launches(step, run.device)}
        step = make_step(models[name], image, runs[name], "training")
        record["training"] = training_costs(models[name], step, run.device)
    for name, dtype in dtypes.items():
        rates[name] = rates[name].at_best(measure_rates(run.device, dtype))
    least = {name: _least_seconds(spec, replace(run, dtype=name), rates[name]) for name in dtypes}
    for phase in PHASES:
        for name, record in records.items():
            timing = times[phase][name]
            share = {"roofline_share": round(least[runs[name].dtype][phase] / timing.median, 4)}
            record[phase] |= timing.as_json(times[phase][OURS]) | share
            if spec.compile and run.device.type == "cpu":
                record[phase]["launches"] = None
    ours = least[run.dtype]
    return {
        "settings": _settings(spec, run) | ({"fp32": True} if fp32 else {}),
        "rates": rates[run.dtype].as_json(),
        "roofline_ms": {phase: round(1e3 * seconds, 4) for phase, seconds in ours.items()},
        "models": list(records.values()),
        "failed": failed,
    }


def _least_seconds(spec: Spec, run: Run, rates: Rates) -> dict[str, float]:
    """The roofline of each phase."""
    with torch.device("meta"):
        plain = build_ours(replace(spec, attn_impl="reference", cuda_graphs=0)).eval()
    work = backbone_work(plain, spec.size, run.batch, DTYPES[run.dtype])
    return {phase: work[phase].least_seconds(rates) for phase in PHASES}


class _Failures:
    """Keeps why baselines did not run; an error of ours is raised."""

    def __init__(self, failed: dict[str, str]) -> None:
        self._failed = failed

    def __call__(self, step: str, error: Exception) -> None:
        name = step.partition(" ")[0]
        if name == OURS:
            raise error
        self._failed[name] = reason_of(error)


def measure_scaling(
    spec: Spec, versions: Mapping[str, str], run: Run, sides: Sequence[int], phases: Sequence[str]
) -> dict[str, Any]:
    """Time square images of each side, and fit ``time = c * pixels ** exponent``.

    Sizes and models alternate, so that a slow minute of the machine affects all of them.

    Args:
        spec: the model; its size is replaced.
        versions: of the baselines, by name.
        run: how to measure.
        sides: in pixels.
        phases: those of :data:`PHASES` to time.

    Returns:
        ``settings``, ``models`` and ``failed``, as :func:`measure_backbone`.

    Raises:
        UserError: outputs disagree; nothing is timed then.
        ValueError: fewer than two different sides.
    """
    specs = {side: replace(spec, size=(side, side)) for side in sides}
    found, failed = check_baselines(specs[min(sides)], versions, run)
    models = {side: build_models(one, found, run.device) for side, one in specs.items()}
    times: dict[str, dict[str, Timing]] = {}
    for phase in phases:
        steps = {
            f"{name} {side}": make_step(model, run.image(specs[side].size), run, phase)
            for side in sides
            for name, model in models[side].items()
            if name not in failed
        }
        times[phase] = interleave(steps, run.rounds, run.device, on_error=_Failures(failed))
    records = []
    pixels = [side * side for side in sides]
    for name in (name for name in (OURS, *found) if name not in failed):
        record = _record(name, versions, found)
        for phase in phases:
            row = [times[phase][f"{name} {side}"] for side in sides]
            ours = [times[phase][f"{OURS} {side}"] for side in sides]
            record[phase] = {
                "exponent": round(exponent(pixels, [timing.median for timing in row]), 3),
                "sizes": [one.as_json(our) for one, our in zip(row, ours, strict=True)],
            }
        records.append(record)
    return {
        "settings": _settings(spec, run) | {"size": None, "sides": list(sides)},
        "models": records,
        "failed": failed,
    }


def measure_memory(specs: Mapping[str, Spec], version: str, run: Run) -> dict[str, Any]:
    """Count, with and without recomputation (``with_cp``), what a training forward keeps.

    Args:
        specs: models by name, alike but for channels, depths and heads.
        version: mmdet's.

    Returns:
        ``settings``, and ``models``: for each its ``arch``, ``with_cp``, ``difference``, and of
        'ours' and 'mmdet' ``image_mb`` for each image and ``once_mb``, whatever the batch, such as
        weights in lower precision. Megabytes are 1e6 bytes.

    Raises:
        UserError: outputs disagree; nothing is counted then.
    """
    rows = []
    for arch, spec in specs.items():
        found = check_agreement(replace(spec, size=_SMALL), [_BASELINE], run)[_BASELINE]
        for with_cp in (False, True):
            models = build_models(replace(spec, with_cp=with_cp), [_BASELINE], run.device)
            kept = {name: _kept(model, spec.size, run) for name, model in models.items()}
            row = {"arch": arch, "with_cp": with_cp, "difference": found["difference"]}
            rows.append(row | kept)
    shared = _settings(next(iter(specs.values())), run)
    for own in ("embed_dims", "depths", "num_heads", "with_cp", "rounds"):
        del shared[own]
    return {
        "settings": shared | {"arch": ",".join(specs)},
        "baseline": {"name": _BASELINE, "version": version},
        "models": rows,
    }


def _kept(model: nn.Module, size: tuple[int, int], run: Run) -> dict[str, float]:
    one, two = (_bytes_kept(model, run.image(_SMALL, batch), run) for batch in (1, 2))
    once = 2 * one - two
    image = (_bytes_kept(model, run.image(size), run) - once) / run.batch
    return {"image_mb": round(image / 1e6, 3), "once_mb": round(once / 1e6, 3)}


def _bytes_kept(model: nn.Module, image: Tensor, run: Run) -> int:
    """Of forward alone: what backward recomputes it keeps for a moment."""
    model.train()
    with warnings.catch_warnings(), run.precision():
        # mmdet leaves it to PyTorch how blocks are recomputed, and PyTorch warns of that
        warnings.filterwarnings("ignore", ".*use_reentrant")
        return kept_for_backward(model, lambda: model(image))


def make_step(model: nn.Module, image: Tensor, run: Run, phase: str) -> Callable[[], Any]:
    """A step to time: 'forward' without gradients, or 'training', forward and backward."""

    def forward() -> Any:
        with torch.no_grad(), run.precision():
            return model(image)

    def training() -> None:
        model.zero_grad(set_to_none=True)
        with run.precision():
            maps = model(image)
        torch.autograd.backward(maps, [torch.ones_like(x) for x in maps])

    model.train(phase == "training")
    return forward if phase == "forward" else training


def _record(name: str, versions: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": versions.get(name), **found.get(name, {})}


def _settings(spec: Spec, run: Run) -> dict[str, Any]:
    """What was measured, with lists as JSON reads them back."""
    settings = asdict(spec) | {"batch": run.batch, "dtype": run.dtype, "rounds": run.rounds}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}
