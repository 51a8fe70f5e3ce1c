"""Evaluation results: a table on the terminal, JSON on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from rich.table import Table

from swin_dense.engine.paths import write_json
from swin_dense.engine.terminal.console import console
from swin_dense.engine.terminal.progress import is_epoch_based
from swin_dense.registry import HOOKS


@HOOKS.register_module()
class MetricsHook(Hook):
    """Shows each evaluation as a table and keeps them in ``metrics.json`` of the log folder.

    The file is a list of ``{"epoch": ..., "iter": ..., "metrics": {...}}``, oldest first.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self._history: list[dict[str, Any]] = []

    @master_only
    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Keeps and shows an evaluation during training."""
        when = {"epoch": runner.epoch, "iter": runner.iter}
        self._keep(runner, when, metrics or {})
        unit, count = "iteration", runner.iter
        if is_epoch_based(runner):
            unit, count = "epoch", runner.epoch
        if metrics:  # none when nothing was detected, of which the log has warned
            console().print(metrics_table(metrics, f"after {unit} {count}"))

    @master_only
    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Keeps the result of a test; who called the test shows it."""
        self._keep(runner, {}, metrics or {})

    def _keep(self, runner, when: dict[str, int], metrics: Mapping[str, Any]) -> None:
        self._history.append({**when, "metrics": plain_values(metrics)})
        write_json(metrics_file(runner), self._history)


def metrics_file(runner) -> Path:
    """Where the evaluations of a run are kept."""
    return Path(runner.log_dir) / "metrics.json"


def plain_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that are numbers or text, as JSON knows them."""
    found = {}
    for key, value in metrics.items():
        value = value.item() if getattr(value, "size", None) == 1 else value
        if isinstance(value, (int, float, str)):
            found[key] = value
    return found


def metrics_table(metrics: Mapping[str, Any], title: str = "") -> Table:
    """A table of metrics, one row each; COCO's with a column per kind, so that 80 columns do."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    table.add_column("metric")
    kinds = _coco_kinds(metrics)
    if kinds:
        for kind in kinds:
            table.add_column(kind, justify="right")
        for name in dict.fromkeys(name for figures in kinds.values() for name in figures):
            # COCO's -1 means that there is nothing to measure, such as no large objects.
            values = [figures.get(name, "") for figures in kinds.values()]
            table.add_row(name, *("-" if value == -1 else _text(value) for value in values))
        return table
    table.add_column("value", justify="right")
    for name, value in plain_values(metrics).items():
        table.add_row(name, _text(value))
    return table


def _coco_kinds(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``coco/bbox_mAP_50`` is figure ``mAP_50`` of kind ``bbox``; others are of no kind."""
    kinds: dict[str, dict[str, Any]] = {}
    for key, value in plain_values(metrics).items():
        kind, _, name = key.rpartition("/")[2].partition("_")
        if name and kind in ("bbox", "segm", "proposal"):
            kinds.setdefault(kind, {})[name] = value
    return kinds


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
