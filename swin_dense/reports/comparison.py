"""Trainings side by side: a table, curves, and what their configs differ in."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from swin_dense.errors import UserError
from swin_dense.reports import charts
from swin_dense.reports.history import (
    History,
    main_metrics,
    metric_series,
    read_history,
    series,
    short_name,
)
from swin_dense.reports.page import Page

NOTE = "metrics: the highest of all evaluations; loss: the mean of the last tenth of the training"
# Where a run is, not what it is.
_NOT_COMPARED = ("work_dir", "load_from", "resume", "filename", "log_file", "visualizer")


@dataclass
class Comparison:
    """Several trainings, by the names that tell them apart."""

    histories: Mapping[str, History]
    configs: Mapping[str, Config]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and a row for each training: its length, losses and best metrics."""
        names = list(
            dict.fromkeys(n for h in self.histories.values() for n in main_metrics(h.evaluations))
        )
        headings = [
            "run",
            "steps:",
            "loss:",
            *(f"{short_name(n)}:" for n in names),
        ]
        rows = []
        for label, history in self.histories.items():
            _, losses = series(history.steps, "loss")
            last = f"{charts.smoothed(losses)[-1]:.4g}" if losses else "-"
            row = [label, f"{history.steps[-1]['step']:,}", last]
            for name in names:
                _, values = metric_series(history.evaluations, name)
                row.append(f"{max(values):.3f}" if values else "-")
            rows.append(row)
        return headings, rows

    def differences(self) -> list[list[str]]:
        """The keys of the configs whose values are not all the same, and these; "-" for none."""
        flat = {label: dict(_flat(cfg.to_dict())) for label, cfg in self.configs.items()}
        keys = dict.fromkeys(key for one in flat.values() for key in one)
        rows = []
        for key in keys:
            values = [_short(one[key]) if key in one else "-" for one in flat.values()]
            if len(set(values)) > 1:
                rows.append([key, *values])
        return rows

    def page(self) -> Page:
        """The page: table, curves, differences of the configs."""
        page = Page("Comparison", " / ".join(self.histories))
        page.section("Results").table(*self.table(), NOTE)
        page.section("Curves").figures(
            charts.compared_curves(self.histories),
            "Losses are means over a tenth of the training; the pale line is each logged one.",
        )
        section = page.section("Differences of the configs")
        if differences := self.differences():
            section.table(["key", *self.configs], differences)
        else:
            section.text("There are none.")
        section = page.section("How they were run")
        for label, history in self.histories.items():
            commands = [run["command"] for run in history.runs] or ["The command was not kept."]
            section.text(label)
            section.code("\n".join(commands))
        return page


def compare_runs(work_dirs: Sequence[str | Path]) -> Comparison:
    """Reads the trainings of several work dirs.

    Raises:
        UserError: there is only one, or one is no work dir of a training.
    """
    paths = [Path(one).resolve() for one in work_dirs]
    if len(set(paths)) < 2:
        raise UserError("give two work dirs or more to compare")
    paths = list(dict.fromkeys(paths))
    labels = _labels(paths)
    histories = {label: read_history(path) for label, path in zip(labels, paths, strict=True)}
    configs = {
        label: Config.fromfile(history.config) if history.config else Config()
        for label, history in histories.items()
    }
    return Comparison(histories, configs)


def _labels(paths: Sequence[Path]) -> list[str]:
    """The names of folders, with as much of their paths as tells them apart."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def _places(nodes: Sequence[Any]) -> list[str]:
    """Names of a list's entries: of hooks, steps and the like their types, else their indices."""
    kinds = [str(one["type"]) if isinstance(one, dict) and "type" in one else "" for one in nodes]
    if not all(kinds):
        return list(map(str, range(len(nodes))))
    counted = [(kind, kinds[:i].count(kind)) for i, kind in enumerate(kinds)]
    return [f"{kind}[{count}]" if count else kind for kind, count in counted]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; entries of lists are named by :func:`_places`."""
    if isinstance(node, Mapping) and node:
        items = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list | tuple) and any(isinstance(one, Mapping) for one in node):
        items = list(zip(_places(node), node, strict=True))
    else:
        yield prefix, node
        return
    for key, value in items:
        if prefix or key not in _NOT_COMPARED:
            yield from _flat(value, f"{prefix}.{key}" if prefix else key)


def _short(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 120 else f"{text[:117]}..."
