"""What a run shows on the terminal: a progress bar with the time left."""

import time
from datetime import timedelta

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn

from swin_dense.engine.terminal.console import console
from swin_dense.registry import HOOKS

_REFRESH_SECONDS = 0.2
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
