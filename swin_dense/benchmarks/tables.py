"""Records as tables: headings and cells, the same on the terminal and in the document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from swin_dense.benchmarks.baselines import OURS
from swin_dense.benchmarks.costs import LAUNCHES, MEMORY

_KEPT = (
    "Megabytes (1e6 bytes) that a training forward keeps: for each image, and once whatever the "
    "batch (weights in lower precision), parameters left out. with_cp recomputes blocks in "
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
    return _ROWS[record["kind"]](record)


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
        # Names and headings may break between words, but 80 columns cut no word and no figure.
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
    facts.append("CUDA graphs" if settings.get("cuda_graphs") else None)
    facts.append("compiled" if settings.get("compile") else None)
    facts += [settings.get("dtype"), record.get("options")]
    return f"{record['kind']}: " + ", ".join(str(fact) for fact in facts if fact)


def file_name(record: Record) -> str:
    """A name, without suffix, that tells records of different settings and devices apart."""
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
    if record["kind"] == "memory":
        notes.append(_KEPT)
        if device == "cpu" and record["settings"]["dtype"] != "fp32":
            notes.append(_KEPT_ON_CPU)
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
    for one in record.get("contestants", ()):
        if "note" in one:
            height, width = one["checked_at"]
            notes.append(f"{one['name']} {one['note']}; compared with ours at {height}x{width}.")
    for name in record.get("skipped", []):
        notes.append(f"{name} is not installed and was skipped.")
    if record.get("remark"):
        notes.append(f"Remark: {record['remark']}.")
    return notes


def _backbone(record: Record) -> Rows:
    headings = ["", "ms", "quartiles", "times ours", "roofline", "launches", "MB", "differs"]
    rows = [headings]
    for phase in ("forward", "training"):
        for one in record["contestants"]:
            figures = one[phase]
            cells = [
                f"{phase}, {_name(one)}",
                *_compared(figures),
                f"{figures['roofline_share']:.1%}",
            ]
            memory = _number(figures["memory_mb"]) if "memory_mb" in figures else ""
            launches = "" if figures["launches"] is None else str(figures["launches"])
            rows.append([*cells, launches, memory, _difference(one)])
    return rows


def _detector(record: Record) -> Rows:
    headings = ["", "training ms", "quartiles", "times ours", "launches", "MB", "differs"]
    rows = [headings]
    for one in record["contestants"]:
        figures = one["training"]
        cells = [_name(one), *_compared(figures), str(figures["launches"])]
        rows.append([*cells, _number(figures["memory_mb"]), _difference(one)])
    return rows


def _memory(record: Record) -> Rows:
    peer = record["peer"]["name"]
    rows = [["", "ours", _name(record["peer"]), "part", "ours, once", f"{peer}, once"]]
    for one in record["models"]:
        ours, theirs = one[OURS], one[peer]
        cells = [one["arch"] + (", with_cp" if one["with_cp"] else "")]
        cells += [_number(ours["image_mb"]), _number(theirs["image_mb"])]
        cells.append(f"{ours['image_mb'] / theirs['image_mb']:.2f}")
        rows.append([*cells, _number(ours["once_mb"]), _number(theirs["once_mb"])])
    return rows


def _scaling(record: Record) -> Rows:
    contestants = record["contestants"]
    rows = [["", *map(_name, contestants)]]
    for phase in (phase for phase in ("forward", "training") if phase in contestants[0]):
        figures = [one[phase] for one in contestants]
        for i, side in enumerate(record["settings"]["sides"]):
            times = (_time(one["sizes"][i]) for one in figures)
            cells = [f"{median}, {quartiles}" for median, quartiles in times]
            rows.append([f"{phase} {side}x{side}", *cells])
        rows.append([f"{phase} exponent", *(f"{one['exponent']:.3f}" for one in figures)])
    if len(contestants) > 1:
        rows.append(["differs", *map(_difference, contestants)])
    return rows


def _evaluation(record: Record) -> Rows:
    kinds = [kind for kind in ("bbox", "segm") if kind in record["contestants"][0]]
    rows = [["", *(f"{kind} {what}" for kind in kinds for what in ("s", "times ours"))]]
    for one in record["contestants"]:
        cells = [
            text
            for kind in kinds
            for text in (f"{one[kind]['median_ms'] / 1e3:.2f}", f"{one[kind]['times_ours']:.2f}")
        ]
        rows.append([_name(one), *cells])
    return rows


def _pipeline(record: Record) -> Rows:
    total = sum(step["ms_per_image"] for step in record["steps"])
    rows = [["", "ms an image", "share"]]
    for step in record["steps"]:
        share = step["ms_per_image"] / total
        rows.append([step["name"], f"{step['ms_per_image']:.2f}", f"{share:.0%}"])
    rate = record["images_per_second"]
    return [*rows, [f"all: {rate:.1f} images/s on one core", f"{1e3 / rate:.2f}", ""]]


_ROWS = {
    "backbone": _backbone,
    "memory": _memory,
    "detector": _detector,
    "scaling": _scaling,
    "evaluation": _evaluation,
    "pipeline": _pipeline,
}


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['name']} {one['version']}" if one.get("version") else one["name"]


def _time(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Median and quartiles."""
    low, high = figures["quartiles_ms"]
    return _number(figures["median_ms"]), f"{_number(low)}-{_number(high)}"


def _compared(figures: Mapping[str, Any]) -> list[str]:
    return [*_time(figures), f"{figures['times_ours']:.2f}"]


def _difference(one: Mapping[str, Any]) -> str:
    return f"{one['difference']:.0e}" if "difference" in one else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
