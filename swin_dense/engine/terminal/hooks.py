"""What a run shows on the terminal: a progress bar with the time left, and tables of metrics."""

import itertools
import math
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn
from rich.table import Table

from swin_dense.engine.terminal.console import console
from swin_dense.engine.terminal.tables import terminal_table
from swin_dense.files import write_json
from swin_dense.registry import HOOKS

_REFRESH_SECONDS = 0.2
# What the metrics of this package report of a class.
_CLASS_METRIC = re.compile(
    r"(?P<around>(?:[^/]+/)*?)(?:(?P<box>bbox|segm)_(?P<name>.+)_precision"
    r"|(?P<kind>IoU|Acc|Dice|Fscore|Precision|Recall)_(?P<label>.+))"
)
_NAMES = {"val": "evaluate", "test": "test"}


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows how far training, validation and testing are.

    On a terminal it is a bar that redraws itself; elsewhere (a pipe, a CI log) a line every
    ``plain_seconds``. The time left counts the evaluations that are still to come.
    """

    priority = "VERY_LOW"

    def __init__(self, plain_seconds: float = 15.0) -> None:
        self.plain_seconds = plain_seconds
        self._progress: Progress | None = None
        self._tasks: dict[str, Task] = {}
        self._last_shown = 0.0
        self._evaluation_start = 0.0
        self._evaluation_seconds = 0.0  # of the last one
        self._all_evaluations_seconds = 0.0

    def before_train(self, runner) -> None:
        """Starts the bar of the whole training."""
        self._start("train", runner.max_iters, done=runner.iter)

    def after_train(self, runner) -> None:
        """Closes the bar of the training."""
        self._stop("train")

    def _before_epoch(self, runner, mode: str = "train") -> None:
        if mode != "train":
            self._evaluation_start = time.monotonic()
            self._start(_NAMES[mode], len(getattr(runner, f"{mode}_dataloader")))

    def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode="train") -> None:
        if mode == "train":
            done = runner.iter + 1
            self._update("train", done, _state(runner), _evaluations_left(runner, done))
        else:
            self._update(_NAMES[mode], batch_idx + 1)

    def _after_epoch(self, runner, mode: str = "train") -> None:
        if mode != "train":
            self._stop(_NAMES[mode])
            self._evaluation_seconds = time.monotonic() - self._evaluation_start
            self._all_evaluations_seconds += self._evaluation_seconds

    def close(self) -> None:
        """Closes all bars, so that an error message is not drawn into one."""
        for name in list(self._tasks):
            self._stop(name)

    def _start(self, name: str, total: int, done: int = 0) -> None:
        if not is_main_process():
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description:>8}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                console=console(),
                disable=not console().is_terminal,
                # No refresh thread: a thread that holds the terminal's lock while data-loading
                # workers are forked would leave that lock closed in them.
                auto_refresh=False,
                redirect_stdout=False,
                # Iterations may take minutes on a CPU, and evaluations do not slow them down.
                speed_estimate_period=3600.0,
                get_time=lambda: time.monotonic() - self._all_evaluations_seconds,
            )
            self._progress.start()
        self._progress.add_task(name, total=total, completed=done, state="")
        self._tasks[name] = self._progress.tasks[-1]

    def _update(self, name: str, done: int, state: str = "", evaluations: int = 0) -> None:
        """Moves a bar, or prints a line where there is no terminal.

        ``state`` is shown before the time left, which counts ``evaluations`` still to come.
        """
        if self._progress is None or name not in self._tasks:
            return
        task = self._tasks[name]
        self._progress.update(task.id, completed=done)
        now = time.monotonic()
        wait = self.plain_seconds if self._progress.disable else _REFRESH_SECONDS
        if now - self._last_shown < wait and not task.finished:
            return
        self._last_shown = now
        if task.speed:
            seconds = (task.remaining or 0) / task.speed + evaluations * self._evaluation_seconds
            state = f"{state}  {timedelta(seconds=round(seconds))} left".strip()
        if self._progress.disable:
            console().print(f"{name} {done}/{task.total}  {state}".rstrip(), soft_wrap=True)
        else:
            self._progress.update(task.id, state=state, refresh=True)

    def _stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if self._progress is None or task is None:
            return
        if self._tasks:
            self._progress.remove_task(task.id)
            self._progress.refresh()
        else:
            if not self._progress.disable:
                self._progress.stop()
            self._progress = None


def is_epoch_based(runner) -> bool:
    """Whether a training counts epochs; otherwise it counts iterations only."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _evaluations_left(runner, done: int) -> int:
    """How many evaluations come after iteration ``done``."""
    left = runner.max_iters - done
    if is_epoch_based(runner):
        left = runner.max_epochs - done // max(len(runner.train_dataloader), 1)
    return 0 if runner.val_loop is None else left // runner.train_loop.val_interval


def _state(runner) -> str:
    """Epoch, loss and learning rate, as the log has them."""
    by_epoch = is_epoch_based(runner)
    parts = [f"epoch {runner.epoch + 1}/{runner.max_epochs}"] if by_epoch else []
    scalars = runner.message_hub.log_scalars
    for name, form in (("loss", ".3f"), ("lr", ".1e")):
        if f"train/{name}" in scalars:
            parts.append(f"{name} {scalars[f'train/{name}'].current():{form}}")
    return "  ".join(parts)


@HOOKS.register_module()
class MetricsHook(Hook):
    """Shows each evaluation as a table and saves all in ``metrics.json`` of the log folder.

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
        self._save(runner, {"epoch": runner.epoch, "iter": runner.iter}, metrics or {})
        by_epoch = is_epoch_based(runner)
        when = f"epoch {runner.epoch}" if by_epoch else f"iteration {runner.iter}"
        if metrics:  # none when nothing was detected, of which the log has warned
            show_metrics(metrics, f"after {when}")

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
    """The metrics that are numbers or text, as JSON can hold them: None instead of nan."""
    scalars = {k: v.item() if getattr(v, "size", None) == 1 else v for k, v in metrics.items()}
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in scalars.items()
        if isinstance(value, (int, float, str))
    }


def show_metrics(metrics: Mapping[str, Any], title: str = "") -> None:
    """Prints metrics as a table, and those of each class, if there are any, as another."""
    of_classes = class_columns(metrics)
    rest = {key: value for key, value in metrics.items() if not _CLASS_METRIC.fullmatch(key)}
    console().print(metrics_table(rest, title))
    if of_classes:
        console().print(_table("class", of_classes))


def metrics_table(metrics: Mapping[str, Any], title: str = "") -> Table:
    """A table of metrics, one row each; COCO's have a column for boxes and one for masks."""
    return _table("metric", _coco_columns(metrics) or {"value": plain_values(metrics)}, title)


def _table(heading: str, columns: Mapping[str, Mapping[str, Any]], title: str = "") -> Table:
    rows = []
    for name in dict.fromkeys(itertools.chain(*columns.values())):
        values = [column.get(name, "") for column in columns.values()]
        rows.append([name, *map(_cell, values)])
    return terminal_table([heading, *(f"{column}:" for column in columns)], rows, title)


def class_columns(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics of each class by kind and class: ``bbox AP`` of COCO's, ``IoU`` of segmentors'."""
    columns: dict[str, dict[str, Any]] = {}
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


def _coco_columns(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``coco/bbox_mAP_50`` is row ``mAP_50`` of column ``bbox``; empty without COCO's metrics.

    ``teacher/coco/bbox_mAP_50`` is in column ``teacher bbox``.
    """
    columns: dict[str, dict[str, Any]] = {}
    for key, value in plain_values(metrics).items():
        *around, last = key.split("/")
        kind, _, name = last.partition("_")
        if name and kind in ("bbox", "segm", "proposal"):
            column = " ".join([*around[:-1], kind])
            # COCO's -1 means that there is nothing to measure, such as no large objects.
            columns.setdefault(column, {})[name] = None if value == -1 else value
    return columns
