"""Pictures of records: bars of ratios, and time against pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swin_dense.benchmarks.tables import title_of

_PHASES = ("forward", "training")


def save_plot(record: Mapping[str, Any], path: Path) -> bool:
    """Draw a record of the backbone or of scaling; others have no picture. Returns whether."""
    draw = {"backbone": _bars, "scaling": _lines}.get(record["kind"])
    if draw is None:
        return False
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    draw(record, axes)
    axes.set_title(title_of(record), loc="left", fontsize="medium")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # No date or version within, so that the same record gives the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return True


def _bars(record: Mapping[str, Any], axes: Any) -> None:
    contestants = record["contestants"]
    names = [one["name"] for one in contestants]
    for i, phase in enumerate(_PHASES):
        places = [place + 0.4 * i for place in range(len(names))]
        ratios = [one[phase]["times_ours"] for one in contestants]
        bars = axes.barh(places, ratios, height=0.38, label=phase)
        axes.bar_label(bars, [f" {ratio:.2f}" for ratio in ratios], fontsize="small")
    axes.set_yticks([place + 0.2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel("time, ours = 1")
    axes.margins(x=0.12)
    axes.legend(frameon=False)


def _lines(record: Mapping[str, Any], axes: Any) -> None:
    sides = record["settings"]["sides"]
    pixels = [side * side / 1e6 for side in sides]
    for one in record["contestants"]:
        for phase, style in zip(_PHASES, ("-", "--"), strict=True):
            if phase in one:
                times = [size["median_ms"] for size in one[phase]["sizes"]]
                label = f"{one['name']}, {phase}: pixels^{one[phase]['exponent']:.2f}"
                axes.plot(pixels, times, style, marker="o", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(pixels, [f"{side}x{side}" for side in sides], rotation=30, fontsize="small")
    axes.minorticks_off()
    axes.set_ylabel("ms")
    axes.legend(frameon=False, fontsize="small")
