"""The metrics of evaluations: tables on the terminal, and a file of all of them."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from rich.table import Table

from swin_dense.engine.terminal.console import console
from swin_dense.engine.terminal.hooks import is_epoch_based
from swin_dense.engine.terminal.tables import terminal_table
from swin_dense.files import write_json
from swin_dense.registry import HOOKS

# What the metrics of this package report of a class.
_CLASS_METRIC = re.compile(
    r"(?P<around>(?:[^/]+/)*?)(?:(?P<box>bbox|segm)_(?P<name>.+)_precision"
    r"|(?P<kind>IoU|Acc|Dice|Fscore|Precision|Recall)_(?P<label>.+))"
)
_MAIN = ("mAP", "mAP_50", "mAP_75")  # of COCO's twelve and more, shown while a training goes on
_HIGHER_IS_BETTER = re.compile("mAP|AP|AR@|IoU|[aA]cc|Dice|Fscore|Precision|Recall")
_Columns = dict[str, dict[str, Any]]


@HOOKS.register_module()
class MetricsHook(Hook):
    """Shows each evaluation as a table and saves all in ``metrics.json`` of the log folder.

    While the training goes on, the table has the main metrics beside the best ones so far; when it
    ends, all of them.

    The file is a list of ``{"epoch": ..., "iter": ..., "metrics": {...}}``, oldest first. A resumed
    training continues that of the checkpoint.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self._history: list[dict[str, Any]] = []

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keeps the evaluations."""
        checkpoint["meta"]["evaluations"] = list(self._history)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Continues the evaluations of a training that is resumed."""
        if runner._resume:
            self._history = list(checkpoint["meta"].get("evaluations", []))

    @master_only
    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Saves and shows an evaluation during training."""
        earlier = [one["metrics"] for one in self._history]
        self._save(runner, {"epoch": runner.epoch, "iter": runner.iter}, metrics or {})
        if runner.iter < runner.max_iters:
            self._show_last(runner, earlier)

    @master_only
    def after_train(self, runner) -> None:
        """Shows the whole of the last evaluation."""
        self._show_last(runner)

    @master_only
    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Saves the result of a test, which the test itself shows."""
        self._save(runner, {}, metrics or {})

    def _show_last(self, runner, earlier: Sequence[Mapping[str, Any]] | None = None) -> None:
        last = self._history[-1] if self._history else {}
        if not last.get("metrics"):  # none when nothing was detected, of which the log has warned
            return
        by_epoch = is_epoch_based(runner)
        when = f"after epoch {last['epoch']}" if by_epoch else f"after iteration {last['iter']}"
        if earlier is None:
            show_metrics(last["metrics"], when)
        else:
            console().print(progress_table(last["metrics"], earlier, when))

    def _save(self, runner, when: dict[str, int], metrics: Mapping[str, Any]) -> None:
        self._history.append({**when, "metrics": plain_values(metrics)})
        write_json(metrics_file(runner), self._history)


def metrics_file(runner) -> Path:
    """Where the evaluations of a run are saved."""
    return Path(runner.log_dir) / "metrics.json"


def plain_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that are numbers or text, as JSON can hold them: None instead of nan."""
    scalars = {k: v.item() if getattr(v, "size", None) == 1 else v for k, v in metrics.items()}
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in scalars.items()
        if isinstance(value, (int, float, str))
    }


def show_metrics(metrics: Mapping[str, Any], title: str = "") -> None:
    """Prints metrics as a table, and those of each class, if there are any, as another."""
    console().print(metrics_table(metrics, title))
    if of_classes := class_columns(metrics):
        console().print(_table("class", of_classes))


def metrics_table(metrics: Mapping[str, Any], title: str = "") -> Table:
    """A table of metrics, one row each; COCO's have a column for boxes and one for masks."""
    return _table("metric", _columns(metrics), title)


def progress_table(
    metrics: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]], title: str = ""
) -> Table:
    """A few rows of :func:`metrics_table`: the main metrics beside the best of earlier ones."""
    before = [_columns(one) for one in earlier]
    columns: _Columns = {}
    for column, values in _columns(metrics).items():
        main = [name for name in _MAIN if name in values]
        columns[column] = {
            name: _beside_best(name, values[name], [b.get(column, {}).get(name) for b in before])
            for name in main or values
        }
    caption = "in brackets: the best so far" if earlier else ""
    return _table("metric", columns, title, caption)


def _beside_best(name: str, value: Any, before: Sequence[Any]) -> str:
    """``0.305 (0.312)``, or ``0.312 best`` if no value before was as high."""
    known = [one for one in before if isinstance(one, int | float)]
    if not known or not isinstance(value, int | float) or not _HIGHER_IS_BETTER.search(name):
        return _cell(value)
    return _cell(value) + (" best" if value > max(known) else f" ({_cell(max(known))})")


def _table(heading: str, columns: _Columns, title: str = "", caption: str = "") -> Table:
    rows = []
    for name in dict.fromkeys(itertools.chain(*columns.values())):
        values = [column.get(name, "") for column in columns.values()]
        rows.append([name, *map(_cell, values)])
    return terminal_table([heading, *(f"{column}:" for column in columns)], rows, title, caption)


def class_columns(metrics: Mapping[str, Any]) -> _Columns:
    """Metrics of each class by kind and class: ``bbox AP`` of COCO's, ``IoU`` of segmentors'."""
    columns: _Columns = {}
    for key, value in plain_values(metrics).items():
        if found := _CLASS_METRIC.fullmatch(key):
            around = [part for part in found["around"].split("/")[:-1] if part != "coco"]
            kind = f"{found['box']} AP" if found["box"] else found["kind"]
            name = found["name"] or found["label"]
            columns.setdefault(" ".join([*around, kind]), {})[name] = value
    return columns


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _columns(metrics: Mapping[str, Any]) -> _Columns:
    """Metrics by column and row, but those of classes; without COCO's, the one column is ``value``.

    ``coco/bbox_mAP_50`` is row ``mAP_50`` of column ``bbox``, ``teacher/coco/bbox_mAP_50`` is in
    column ``teacher bbox``.
    """
    columns: _Columns = {}
    values = plain_values(metrics)
    rest = {key: value for key, value in values.items() if not _CLASS_METRIC.fullmatch(key)}
    for key, value in rest.items():
        *around, last = key.split("/")
        kind, _, name = last.partition("_")
        if name and kind in ("bbox", "segm", "proposal"):
            column = " ".join([*around[:-1], kind])
            # COCO's -1 means that there is nothing to measure, such as no large objects.
            columns.setdefault(column, {})[name] = None if value == -1 else value
    return columns or {"value": rest}
