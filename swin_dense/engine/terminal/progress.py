"""A progress bar with the loss, the learning rate and the time left."""

from __future__ import annotations

import time
from datetime import timedelta

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from swin_dense.engine.terminal.console import console
from swin_dense.engine.terminal.metrics import _by_epoch
from swin_dense.registry import HOOKS

_REFRESH_SECONDS = 0.2
_SMOOTHING = 0.05


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows how far training, validation and testing are.

    On a terminal it is a bar that redraws itself; elsewhere (a pipe, a CI log) a line every
    ``plain_seconds``. The time left counts the evaluations that are still to come.

    Args:
        plain_seconds: seconds between lines where there is no terminal.
    """

    priority = "VERY_LOW"

    def __init__(self, plain_seconds: float = 15.0) -> None:
        self.plain_seconds = plain_seconds
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._clock = _Clock()
        self._last_shown = 0.0

    def before_train(self, runner) -> None:
        """Starts the bar of the whole training."""
        self._clock = _Clock()
        self._open("train", runner.max_iters, done=runner.iter)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Notes when an iteration begins, so that evaluations do not count as one."""
        self._clock.begin()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Moves the bar."""
        done = runner.iter + 1
        self._clock.end(done)
        left = self._clock.left(runner.max_iters - done, _evaluations_left(runner, done))
        self._show("train", done, runner.max_iters, f"{_state(runner)}  {_left(left)}")

    def after_train(self, runner) -> None:
        """Closes the bar."""
        self._close("train")

    def before_val_epoch(self, runner) -> None:
        """Starts the bar of an evaluation."""
        self._clock.begin_evaluation()
        self._open("evaluate", len(runner.val_dataloader))

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Moves the bar of an evaluation."""
        self._show("evaluate", batch_idx + 1, len(runner.val_dataloader), "")

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Closes the bar of an evaluation."""
        self._clock.end_evaluation()
        self._close("evaluate")

    def before_test_epoch(self, runner) -> None:
        """Starts the bar of a test."""
        self._clock = _Clock()
        self._open("test", len(runner.test_dataloader))

    def before_test_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Notes when an iteration begins."""
        self._clock.begin()

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Moves the bar of a test."""
        total, done = len(runner.test_dataloader), batch_idx + 1
        self._clock.end(done)
        self._show("test", done, total, _left(self._clock.left(total - done, 0)))

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Closes the bar of a test."""
        self._close("test")

    def close(self) -> None:
        """Removes the bar, so that an error message is not drawn into it."""
        for name in list(self._tasks):
            self._close(name)

    def _open(self, name: str, total: int, done: int = 0) -> None:
        if not is_main_process():
            return
        if not console().is_terminal:
            self._tasks[name] = TaskID(0)
            return
        if self._bar is None:
            # No refresh thread: a thread that holds the terminal's lock while data-loading
            # workers are forked would leave that lock closed in them.
            self._bar = Progress(
                TextColumn("{task.description:>8}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                console=console(),
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=True,
            )
            self._bar.start()
        self._tasks[name] = self._bar.add_task(name, total=total, completed=done, state="")
        self._bar.refresh()

    def _show(self, name: str, done: int, total: int, state: str) -> None:
        if name not in self._tasks:
            return
        if self._bar is not None:
            self._bar.update(self._tasks[name], completed=done, state=state)
        now = time.monotonic()
        wait = _REFRESH_SECONDS if self._bar else self.plain_seconds
        if now - self._last_shown < wait and done < total:
            return
        self._last_shown = now
        if self._bar is not None:
            self._bar.refresh()
        else:
            console().print(f"{name} {done}/{total}  {state}".rstrip(), soft_wrap=True)

    def _close(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if self._bar is None or task is None:
            return
        if self._tasks:
            self._bar.remove_task(task)
            self._bar.refresh()
        else:
            self._bar.stop()
            self._bar = None


class _Clock:
    """Averages of how long an iteration and an evaluation take, in seconds."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last_end: float | None = None
        self._iteration: float | None = None
        self._evaluation_began = 0.0
        self._evaluation = 0.0

    def begin(self) -> None:
        self._began = time.monotonic()

    def end(self, done: int) -> None:
        """Ends an iteration; it began where the previous one ended, to count loading of data."""
        now = time.monotonic()
        start = self._last_end if self._last_end is not None else self._began
        self._last_end = now
        seconds = now - (start if start is not None else now)
        if self._iteration is None:
            self._iteration = seconds
        else:
            # Early iterations (warm-up of caches and workers) fade out of a plain mean.
            weight = max(_SMOOTHING, 1.0 / max(done, 1))
            self._iteration += weight * (seconds - self._iteration)

    def begin_evaluation(self) -> None:
        self._evaluation_began = time.monotonic()

    def end_evaluation(self) -> None:
        self._evaluation = time.monotonic() - self._evaluation_began
        self._last_end = None  # the evaluation is not part of the next iteration

    def left(self, iterations: int, evaluations: int) -> float:
        return (self._iteration or 0.0) * iterations + self._evaluation * evaluations


def _evaluations_left(runner, done: int) -> int:
    """How many evaluations come after iteration ``done``."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return 0
    if _by_epoch(runner):
        per_epoch = max(len(runner.train_dataloader), 1)
        return (runner.max_epochs - done // per_epoch) // loop.val_interval
    return (runner.max_iters - done) // loop.val_interval


def _state(runner) -> str:
    """Epoch, loss and learning rate, as the log has them."""
    scalars = runner.message_hub.log_scalars
    parts = []
    if _by_epoch(runner):
        parts.append(f"epoch {runner.epoch + 1}/{runner.max_epochs}")
    for name, form in (("loss", ".3f"), ("lr", ".1e")):
        if f"train/{name}" in scalars:
            parts.append(f"{name} {scalars[f'train/{name}'].current():{form}}")
    return "  ".join(parts)


def _left(seconds: float) -> str:
    return f"{timedelta(seconds=round(seconds))} left"
