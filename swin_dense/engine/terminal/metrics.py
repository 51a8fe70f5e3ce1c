"""Evaluation results: a table on the terminal, JSON on disk."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from rich.table import Table

from swin_dense.engine.paths import write_json
from swin_dense.engine.terminal.console import console
from swin_dense.engine.terminal.progress import is_epoch_based
from swin_dense.engine.terminal.tables import terminal_table
from swin_dense.registry import HOOKS


@HOOKS.register_module()
class MetricsHook(Hook):
    """Shows each evaluation as a table and saves all in ``metrics.json`` of the log folder.

    The file is a list of ``{"epoch": ..., "iter": ..., "metrics": {...}}``, oldest first.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self._history: list[dict[str, Any]] = []

    @master_only
    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Saves and shows an evaluation during training."""
        self._save(runner, {"epoch": runner.epoch, "iter": runner.iter}, metrics or {})
        by_epoch = is_epoch_based(runner)
        when = f"epoch {runner.epoch}" if by_epoch else f"iteration {runner.iter}"
        if metrics:  # none when nothing was detected, of which the log has warned
            console().print(metrics_table(metrics, f"after {when}"))

    @master_only
    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Saves the result of a test, which the test itself shows."""
        self._save(runner, {}, metrics or {})

    def _save(self, runner, when: dict[str, int], metrics: Mapping[str, Any]) -> None:
        self._history.append({**when, "metrics": plain_values(metrics)})
        write_json(metrics_file(runner), self._history)


def metrics_file(runner) -> Path:
    """Where the evaluations of a run are saved."""
    return Path(runner.log_dir) / "metrics.json"


def plain_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that are numbers or text, which JSON can hold."""
    scalars = {k: v.item() if getattr(v, "size", None) == 1 else v for k, v in metrics.items()}
    return {key: value for key, value in scalars.items() if isinstance(value, (int, float, str))}


def metrics_table(metrics: Mapping[str, Any], title: str = "") -> Table:
    """A table of metrics, one row each; COCO's have a column for boxes and one for masks."""
    columns = _coco_columns(metrics) or {"value": plain_values(metrics)}
    rows = []
    for name in dict.fromkeys(itertools.chain(*columns.values())):
        values = [column.get(name, "") for column in columns.values()]
        rows.append([name, *(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values)])
    return terminal_table(["metric", *(f"{column}:" for column in columns)], rows, title)


def _coco_columns(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``coco/bbox_mAP_50`` is row ``mAP_50`` of column ``bbox``; empty without COCO's metrics."""
    columns: dict[str, dict[str, Any]] = {}
    for key, value in plain_values(metrics).items():
        kind, _, name = key.rpartition("/")[2].partition("_")
        if name and kind in ("bbox", "segm", "proposal"):
            # COCO's -1 means that there is nothing to measure, such as no large objects.
            columns.setdefault(kind, {})[name] = "-" if value == -1 else value
    return columns
