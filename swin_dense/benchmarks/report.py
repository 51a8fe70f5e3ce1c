"""``docs/benchmarks.md`` from the records of measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from swin_dense.benchmarks.records import KINDS, machine_text
from swin_dense.benchmarks.tables import notes_of, rows_of, title_of
from swin_dense.benchmarks.targets import GOALS

_HEADER = """# Benchmarks

Generated, not edited: `{command}`. Every table is a record in `docs/benchmarks/`, measured by the
command above it.

Contestants have the same weights, and their outputs and the gradient of the image were found to
agree with ours before anything was timed ("differs": by how much at most, over the largest value).
They take turns (A B C A B C ...); times are medians, with quartiles. "Times ours" is how many
times as long as ours a contestant takes. "Training" of a backbone is forward and backward, of a
detector or segmentor the whole step with the optimizer. "Roofline" is the part of the time that
the matrix products take at the measured rate of the machine, or reading and writing the maps
between the blocks at the measured rate of its copies, whichever is longer.
"""
_GOALS = """## Goals

"x": times as fast as mmdet (or mmseg), or part of its memory, in one run. With CUDA
graphs ours is compared with eager others. What may be kept for backward was calculated for fused
kernels; the same calculation gives mmdet 1508, 2427, 3234 and 4847 MB. "Measured on" names the
machine of the latest record; each machine has a line of its own. The goals of a CPU are set for
AMD EPYC; Intel may gain less.
"""
_COMMANDS = """What measures them, on a GPU:

    tools/benchmark.py backbone --arch tiny             # small, base, large
    tools/benchmark.py backbone --arch large --window-size 12
    tools/benchmark.py backbone --batch 1
    tools/benchmark.py backbone --batch 1 --cuda-graphs
    tools/benchmark.py memory --arch tiny,small,base,large
    tools/benchmark.py scaling
    tools/benchmark.py detector configs/cascade_swin_t_coco.py
    tools/benchmark.py detector configs/upernet_swin_t_ade20k.py

and on a CPU `backbone`, `memory`, `evaluation`, and `scaling --sizes 512,1024,1536,2048`. Records
that are given as `--json docs/benchmarks/NAME.json` become part of this document.
"""
_TITLES = {
    "backbone": "Backbone",
    "memory": "Memory kept for backward",
    "scaling": "Time against pixels",
    "detector": "Whole training steps",
    "evaluation": "COCO evaluation",
    "pipeline": "Input pipeline",
}


def benchmarks_document(
    records: Sequence[Mapping[str, Any]], command: str, plots: Mapping[int, str]
) -> str:
    """The document.

    Args:
        records: as they were saved; their order does not matter.
        command: what generates the document.
        plots: paths of pictures, as the document names them, by place in ``records``.
    """
    goals = f"{_GOALS}\n{markdown(_goals(records))}"
    parts = [_HEADER.format(command=command), goals, _COMMANDS]
    order = sorted(range(len(records)), key=lambda i: _place(records[i]))
    for kind, places in groupby(order, lambda i: records[i]["kind"]):
        parts.append(f"## {_TITLES[kind]}\n")
        parts += [_section(records[i], plots.get(i)) for i in places]
    return "\n".join(parts)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is the headings."""
    headings, *rest = rows
    rule = ["---" if heading in ("", "case", "measured on") else "--:" for heading in headings]
    return "".join(f"| {' | '.join(row)} |\n" for row in [headings, rule, *rest])


def _goals(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line for each machine that a goal was measured on."""
    rows = [["case", "must", "aim", "measured", "measured on"]]
    for goal in GOALS:
        most = "at most " if goal.at_most else ""
        goals = [f"{most}{x:g}{goal.unit}" if x else "" for x in (goal.must, goal.aim)]
        found = [(f"{_digits(y)}{goal.unit}", on) for on, y in goal.measured(records).items()]
        rows += [[goal.case, *goals, *cells] for cells in found or [("not measured", "")]]
    return rows


def _digits(figure: float) -> str:
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.2f}"


def _section(record: Mapping[str, Any], plot: str | None) -> str:
    lines = [
        f"### {title_of(record)}\n",
        f"{machine_text(record)}, {record['date']}. `{record['command']}`\n",
        markdown(rows_of(record)),
        *(f"{note}\n" for note in notes_of(record)),
        f"Versions: {record['versions']}.\n",
    ]
    if plot:
        lines.append(f"![{title_of(record)}]({plot})\n")
    return "\n".join(lines)


def _place(record: Mapping[str, Any]) -> tuple[Any, ...]:
    # GPUs first; then what tells records of a kind apart
    on_cpu = record["machine"]["device"] == "cpu"
    return KINDS.index(record["kind"]), on_cpu, title_of(record), record["date"]
