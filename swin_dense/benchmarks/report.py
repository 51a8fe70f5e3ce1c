"""Records as tables on the terminal, as plots, and as ``docs/benchmarks.md``."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from swin_dense.benchmarks.backbone import PHASES
from swin_dense.benchmarks.baselines import OURS
from swin_dense.benchmarks.compiling import compile_notes, compile_rows
from swin_dense.benchmarks.kernels import kernel_notes, kernel_rows
from swin_dense.benchmarks.measurement import LAUNCHES, MEMORY
from swin_dense.benchmarks.passes import PREDICTIONS, passes_notes, passes_rows, prediction_rows
from swin_dense.benchmarks.records import KINDS, machine_text
from swin_dense.benchmarks.targets import TARGETS
from swin_dense.benchmarks.tune import tune_notes, tune_rows
from swin_dense.benchmarks.waits import wait_notes, wait_rows
from swin_dense.engine.terminal.tables import markdown_table

_HEADER = """# Benchmarks

Generated, not edited: `{command}`. Every table is a record in `docs/benchmarks/`, measured by the
command above it; only the last section has predictions.

All models have the same weights, and their outputs and the gradient of the image were found to
agree with ours before anything was timed ("differs": by how much at most, over the largest value).
They take turns (A B C A B C ...); times are medians, with quartiles. "Times ours" is how many
times as long as ours a model takes. "Training" of a backbone is forward and backward, of a
detector or segmentor the whole step with the optimizer. "Roofline" is the part of the time that
the matrix products take at the measured rate of the machine, or reading and writing the feature
maps between the blocks at the measured rate of its copies, whichever is longer.
"""
_TARGETS = """## Targets

"x": times as fast as mmdet (or mmseg), or part of its memory, in one run. With CUDA graphs ours is
compared with eager baselines. What may be kept for backward was calculated for fused kernels; the
same calculation gives mmdet 1508, 2427, 3234 and 4847 MB. "Measured on" is the machine of the
latest record; each machine has a row. The targets of a CPU are set for AMD EPYC; Intel may gain
less. "Counted": kernels and gigabytes that need no GPU, see below.
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

and on a CPU

    tools/benchmark.py backbone
    tools/benchmark.py backbone --dtype bf16 --fp32     # with AMX or AVX512-BF16
    tools/benchmark.py memory --arch tiny,small,base,large
    tools/benchmark.py scaling --sizes 512,1024,1536,2048
    tools/benchmark.py scaling --sizes 224,512,1024,2048 --against mmdet,timm,hf,torchvision \\
        --phases forward,training --batch 1             # and 8
    tools/benchmark.py evaluation

`kernels` compiles without a GPU, and times the kernels too where there is one; `passes`, `waits`
and `compile` count without one. Records that are given as `--json docs/benchmarks/NAME.json`
become part of this document.
"""
_KEPT = (
    "Megabytes (1e6 bytes) that a training forward keeps: for each image, and once whatever the "
    "batch (weights in lower precision), without parameters. with_cp recomputes blocks in "
    "backward."
)
_KEPT_ON_CPU = (
    "Counted on a CPU, whose autocast runs LayerNorm, and with it the residuals, in lower "
    "precision; a GPU's runs LayerNorm in float32, so that there mmdet keeps more."
)

Record = Mapping[str, Any]
Rows = list[list[str]]


def rows_of(record: Record) -> Rows:
    """Headings, then a row of cells for each line of the record's table."""
    return _SECTIONS[record["kind"]][1](record)


def terminal_table(record: Record) -> Table:
    """The table for the terminal."""
    headings, *rows = rows_of(record)
    table = Table(
        title=title_of(record),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for heading, *cells in zip(headings, *rows, strict=True):
        # Names and headings may break between words, but 80 columns cut no word and no number.
        longest = max(len(word) for text in (heading, *cells) for word in text.split() or [""])
        table.add_column(heading, justify="right" if heading else "left", min_width=longest)
    for row in rows:
        table.add_row(*row)
    return table


def title_of(record: Record) -> str:
    """What was measured, in a line."""
    settings = record["settings"]
    size = settings.get("size")
    facts = [record.get("config"), settings.get("arch"), f"{size[0]}x{size[1]}" if size else None]
    if settings.get("window_size", 7) != 7:
        facts.append(f"window {settings['window_size']}")
    for name in ("batch", "images", "detections", "boxes"):
        facts.append(f"{name} {settings[name]}" if settings.get(name) else None)
    facts += [settings.get("backend"), settings.get("target"), settings.get("only")]
    facts.append("sweep" if settings.get("sweep") else None)
    facts.append("CUDA graphs" if settings.get("cuda_graphs") else None)
    facts.append("compiled" if settings.get("compile") else None)
    facts += [settings.get("dtype"), "and fp32" if settings.get("fp32") else None]
    facts.append(record.get("options"))
    return f"{record['kind']}: " + ", ".join(str(fact) for fact in facts if fact)


def file_name(record: Record) -> str:
    """A name, without suffix, that differs between settings and devices."""
    words = re.findall(r"[a-z0-9.]+", f"{title_of(record)} {record['machine']['device']}".lower())
    return "_".join(words)[:200]


def notes_of(record: Record) -> list[str]:
    """What a reader of the table has to know."""
    device = record["machine"]["device"]
    notes = []
    if record["kind"] in ("backbone", "detector"):
        notes.append(f"Memory: {MEMORY[device]}. Launches: {LAUNCHES[device]}.")
    if record["kind"] == "scaling":
        notes.append("Milliseconds: median, quartiles. Exponent of time against pixels.")
        notes += _least_ratios(record)
    if record["kind"] == "memory":
        notes.append(_KEPT)
        if device == "cpu" and record["settings"]["dtype"] != "fp32":
            notes.append(_KEPT_ON_CPU)
    if record["kind"] == "waits":
        notes += wait_notes(record)
    if record["kind"] == "compile":
        notes += compile_notes(record)
    if record["kind"] == "kernels":
        notes += kernel_notes(record)
    if "mmdet" in record:
        times = record["images_per_second"] / record["mmdet"]["images_per_second"]
        same = "identical" if record["identical"] else "not identical"
        notes.append(f"{times:.2f} times mmdet's images a second; the samples are {same}.")
    if record["kind"] == "tune":
        notes += tune_notes(record)
    if record["kind"] == "passes":
        notes += passes_notes(record)
    if record["settings"].get("cuda_graphs"):
        notes.append("Ours runs forward as a CUDA graph; the others, and training, are eager.")
    if record["settings"].get("boxes"):
        notes.append(f"The heads train on {record['settings']['boxes']} boxes of each image.")
    if "rates" in record:
        rates, least = record["rates"], record["roofline_ms"]
        notes.append(
            f"Roofline: copies at {rates['copy_gb_s']} GB/s, products at "
            f"{rates['matmul_gflop_s']} GFLOP/s, so forward takes {least['forward']:.1f} ms or "
            f"more, forward and backward {least['training']:.1f} ms."
        )
    for one in record.get("models", ()):
        if "note" in one:
            height, width = one["checked_at"]
            notes.append(f"{one['name']} {one['note']}; compared with ours at {height}x{width}.")
    for name, reason in record.get("failed", {}).items():
        notes.append(f"{name} was skipped: {reason.rstrip('.')}.")
    for name in record.get("skipped", []):
        notes.append(f"{name} is not installed and was skipped.")
    if record.get("remark"):
        notes.append(f"Remark: {record['remark']}.")
    return notes


def _backbone(record: Record) -> Rows:
    rows = [["", "ms", "quartiles", "times ours", "roofline", "launches", "MB", "differs"]]
    for phase in PHASES:
        for one in record["models"]:
            name, *times, launches, memory, difference = _step(one, phase)
            share = f"{one[phase]['roofline_share']:.1%}"
            rows.append([f"{phase}, {name}", *times, share, launches, memory, difference])
    return rows


def _detector(record: Record) -> Rows:
    headings = ["", "training ms", "quartiles", "times ours", "launches", "MB", "differs"]
    return [headings, *(_step(one, "training") for one in record["models"])]


def _step(one: Record, phase: str) -> list[str]:
    step = one[phase]
    launches = "" if step["launches"] is None else str(step["launches"])
    memory = _number(step["memory_mb"]) if "memory_mb" in step else ""
    times = [*_time(step), f"{step['times_ours']:.2f}"]
    return [_name(one), *times, launches, memory, _difference(one)]


def _memory(record: Record) -> Rows:
    baseline = record["baseline"]["name"]
    rows = [["", "ours", _name(record["baseline"]), "part", "ours, once", f"{baseline}, once"]]
    for one in record["models"]:
        ours, theirs = one[OURS], one[baseline]
        cells = [one["arch"] + (", with_cp" if one["with_cp"] else "")]
        cells += [_number(ours["image_mb"]), _number(theirs["image_mb"])]
        cells.append(f"{ours['image_mb'] / theirs['image_mb']:.2f}")
        rows.append([*cells, _number(ours["once_mb"]), _number(theirs["once_mb"])])
    return rows


def _scaling(record: Record) -> Rows:
    models = record["models"]
    rows = [["", *map(_name, models)]]
    for phase in (phase for phase in PHASES if phase in models[0]):
        for i, side in enumerate(record["settings"]["sides"]):
            cells = (", ".join(_time(one[phase]["sizes"][i])) for one in models)
            rows.append([f"{phase} {side}x{side}", *cells])
        rows.append([f"{phase} exponent", *(f"{one[phase]['exponent']:.3f}" for one in models)])
    if len(models) > 1:
        rows.append(["differs", *map(_difference, models)])
    return rows


def _least_ratios(record: Record) -> list[str]:
    """Of each phase, the size and the library that came closest to ours."""
    others = record["models"][1:]
    notes = []
    for phase in (phase for phase in PHASES if all(phase in one for one in others)):
        ratios = [
            (size["times_ours"], one["name"], side)
            for one in others
            for side, size in zip(record["settings"]["sides"], one[phase]["sizes"], strict=True)
            if "times_ours" in size  # records of earlier versions have none
        ]
        if ratios:
            ratio, name, side = min(ratios)
            notes.append(
                f"The others take at least {ratio:.2f} times as long as ours in {phase} "
                f"({name}, {side}x{side})."
            )
    return notes


def _evaluation(record: Record) -> Rows:
    kinds = [kind for kind in ("bbox", "segm") if kind in record["models"][0]]
    rows = [["", *(f"{kind} {what}" for kind in kinds for what in ("s", "times ours"))]]
    for one in record["models"]:
        rows.append([_name(one)])
        for kind in kinds:
            rows[-1] += [f"{one[kind]['median_ms'] / 1e3:.2f}", f"{one[kind]['times_ours']:.2f}"]
    return rows


def _pipeline(record: Record) -> Rows:
    total = sum(step["ms_per_image"] for step in record["steps"])
    stock = record.get("mmdet")
    theirs = {step["name"]: step["ms_per_image"] for step in stock["steps"]} if stock else {}
    rows = [["", "ms an image", "share", "mmdet's"]]
    for step in record["steps"]:
        milliseconds, other = step["ms_per_image"], theirs.get(step["name"])
        text = "" if other is None else f"{other:.2f}"
        rows.append([step["name"], f"{milliseconds:.2f}", f"{milliseconds / total:.0%}", text])
    rate = record["images_per_second"]
    name, other = f"all: {rate:.1f} images/s on one core", ""
    if stock:
        name += f", mmdet's {stock['images_per_second']:.1f}"
        other = f"{1e3 / stock['images_per_second']:.2f}"
    rows.append([name, f"{1e3 / rate:.2f}", "", other])
    if stock:
        sizes = (f"{1e-3 * one['annotation_bytes']:.0f}" for one in (record, stock))
        rows.append(["kB of annotations an image", next(sizes), "", next(sizes)])
    return rows if stock else [row[:-1] for row in rows]


# Of each kind of record, the title of its section and the rows of its tables.
_SECTIONS = {
    "backbone": ("Backbone", _backbone),
    "memory": ("Memory kept for backward", _memory),
    "scaling": ("Time against pixels", _scaling),
    "detector": ("Whole training steps", _detector),
    "waits": ("Waits for the GPU", wait_rows),
    "compile": ("Compiled training steps", compile_rows),
    "evaluation": ("COCO evaluation", _evaluation),
    "pipeline": ("Input pipeline", _pipeline),
    "kernels": ("Triton kernels", kernel_rows),
    "tune": ("What 'auto' chooses", tune_rows),
    "passes": ("Kernels and bytes", passes_rows),
}


def _name(one: Record) -> str:
    return f"{one['name']} {one['version']}" if one.get("version") else one["name"]


def _time(step: Record) -> tuple[str, str]:
    """Median and quartiles."""
    low, high = step["quartiles_ms"]
    return _number(step["median_ms"]), f"{_number(low)}-{_number(high)}"


def _difference(one: Record) -> str:
    return f"{one['difference']:.0e}" if "difference" in one else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def save_plot(record: Record, path: Path) -> bool:
    """Plot a record of the backbone or of scaling; False for the other kinds."""
    draw = {"backbone": _bars, "scaling": _lines}.get(record["kind"])
    if draw is None:
        return False
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    draw(record, axes)
    axes.set_title(title_of(record), loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    # No date or version within, so that the same record gives the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return True


def _bars(record: Record, axes: Any) -> None:
    models = record["models"]
    for i, phase in enumerate(PHASES):
        places = [place + 0.4 * i for place in range(len(models))]
        ratios = [one[phase]["times_ours"] for one in models]
        bars = axes.barh(places, ratios, height=0.38, label=phase)
        axes.bar_label(bars, [f" {ratio:.2f}" for ratio in ratios], fontsize="small")
    ticks = [place + 0.2 for place in range(len(models))]
    axes.set_yticks(ticks, [one["name"] for one in models])
    axes.invert_yaxis()
    axes.set_xlabel("time, ours = 1")
    axes.margins(x=0.12)
    axes.legend(frameon=False)


def _lines(record: Record, axes: Any) -> None:
    sides = record["settings"]["sides"]
    pixels = [side * side / 1e6 for side in sides]
    for i, one in enumerate(record["models"]):
        for phase, style in zip(PHASES, ("-", "--"), strict=True):
            if phase in one:
                times = [size["median_ms"] for size in one[phase]["sizes"]]
                label = f"{one['name']}, {phase}: pixels^{one[phase]['exponent']:.2f}"
                axes.plot(pixels, times, style, color=f"C{i}", marker="o", label=label)
    axes.set(xscale="log", yscale="log", ylabel="ms")
    axes.set_xticks(pixels, [f"{side}x{side}" for side in sides], rotation=30, fontsize="small")
    axes.minorticks_off()
    # Beside the axes: within them, the lines of all baselines would run through it.
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def benchmarks_document(records: Sequence[Record], command: str, plots: Mapping[int, str]) -> str:
    """The Markdown document.

    Args:
        records: as they were saved; their order does not matter.
        command: what generates the document.
        plots: paths of plots, as the document names them, by place in ``records``.
    """
    parts = [_HEADER.format(command=command), f"{_TARGETS}\n{_targets(records)}", _COMMANDS]
    order = sorted(range(len(records)), key=lambda i: _place(records[i]))
    for kind, places in groupby(order, lambda i: records[i]["kind"]):
        parts.append(f"## {_SECTIONS[kind][0]}\n")
        parts += [_section(records[i], plots.get(i)) for i in places]
    return "\n".join(parts + _predictions([records[i] for i in order]))


def _predictions(records: Sequence[Record]) -> list[str]:
    """The section of what was not measured; nothing if nothing was predicted."""
    headings, *rows = prediction_rows(one for one in records if one["kind"] == "passes")
    if not rows:
        return []
    table = markdown_table([heading and f"{heading}:" for heading in headings], rows)
    return [f"## Predictions, not measurements\n\n{PREDICTIONS}\n{table}"]


def _targets(records: Sequence[Record]) -> str:
    """A row for each machine that a target was measured on."""
    rows = []
    for target in TARGETS:
        most = "at most " if target.at_most else ""
        values = [f"{most}{x:g}{target.unit}" if x else "" for x in (target.must, target.aim)]
        measured: dict[str, float | None] = {**target.measured(records)} or {"": None}
        for machine, value in measured.items():
            digits = 0 if isinstance(value, int) or (value and value >= 100) else 2
            text = "not measured" if value is None else f"{value:.{digits}f}{target.unit}"
            rows.append([target.case, *values, text, machine])
    return markdown_table(["case", "must:", "aim:", "measured:", "measured on"], rows)


def _section(record: Record, plot: str | None) -> str:
    headings, *rows = rows_of(record)
    lines = [
        f"### {title_of(record)}\n",
        f"{machine_text(record)}, {record['date']}. `{record['command']}`\n",
        markdown_table([heading and f"{heading}:" for heading in headings], rows),
        *(f"{note}\n" for note in notes_of(record)),
        f"Versions: {record['versions']}.\n",
    ]
    if plot:
        lines.append(f"![{title_of(record)}]({plot})\n")
    return "\n".join(lines)


def _place(record: Record) -> tuple[Any, ...]:
    # GPUs first, then by settings
    on_cpu = record["machine"]["device"] == "cpu"
    return KINDS.index(record["kind"]), on_cpu, title_of(record), record["date"]
