"""Time against the number of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from swin_dense.benchmarks.backbone import Run, check_agreement, make_step, settings
from swin_dense.benchmarks.baselines import Spec, build_contestants
from swin_dense.benchmarks.timing import Timing, exponent, interleave

SIDES = {"cuda": (512, 768, 1024, 1280, 1536, 1792, 2048), "cpu": (256, 384, 512, 640, 768)}


def measure_scaling(
    spec: Spec, names: dict[str, str], run: Run, sides: Sequence[int], phases: Sequence[str]
) -> dict[str, Any]:
    """Time square images of each side, and fit ``time = c * pixels ** exponent``.

    Sizes and contestants take turns, so that a slow minute of the machine meets all of them.

    Args:
        spec: the model; its size is replaced.
        names: peers, and their versions.
        run: how to measure.
        sides: in pixels.
        phases: of 'forward' and 'training'.

    Raises:
        UserError: outputs disagree; nothing is timed then.
        ValueError: fewer than two different sides.
    """
    specs = {side: replace(spec, size=(side, side)) for side in sides}
    found = check_agreement(specs[min(sides)], list(names), run)
    models = {side: build_contestants(one, list(names), run.device) for side, one in specs.items()}
    contestants = []
    times: dict[str, dict[str, Timing]] = {}
    for phase in phases:
        steps = {
            f"{name} {side}": make_step(model, run.image(specs[side].size), run, phase)
            for side in sides
            for name, model in models[side].items()
        }
        times[phase] = interleave(steps, run.rounds, run.device)
    pixels = [side * side for side in sides]
    for name in models[sides[0]]:
        record: dict[str, Any] = {"name": name, "version": names.get(name), **found.get(name, {})}
        for phase in phases:
            row = [times[phase][f"{name} {side}"] for side in sides]
            record[phase] = {
                "exponent": round(exponent(pixels, [timing.median for timing in row]), 3),
                "sizes": [timing.as_json() for timing in row],
            }
        contestants.append(record)
    return {
        "settings": settings(spec, run) | {"size": None, "sides": list(sides)},
        "contestants": contestants,
    }
