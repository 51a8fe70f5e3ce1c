"""The hook that writes a training's report."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook

from swin_dense.engine.drawing import draw_sample
from swin_dense.engine.terminal.console import notify_user
from swin_dense.engine.weights import without_wrappers
from swin_dense.files import replace_file, write_json
from swin_dense.registry import HOOKS
from swin_dense.reports.history import KEPT, describe_run
from swin_dense.reports.page import encode_jpeg
from swin_dense.reports.predictions import KeepPredictions
from swin_dense.reports.run_report import report_on_run

_SECONDS_AFTER_STOP, _IMAGES_AFTER_STOP = 15.0, 60
_TILE = 320  # pixels of the side of an image of a batch


def _never_fatal(method: Callable[..., None]) -> Callable[..., None]:
    """What goes wrong with a report is one line: the training goes on."""

    @wraps(method)
    def guarded(self: "ReportHook", runner: Any, *args: Any, **settings: Any) -> None:
        try:
            method(self, runner, *args, **settings)
        except Exception as error:
            self._warn(runner, error)

    return guarded


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``report.html`` of the work dir when a training ends or is stopped by a signal.

    What it needs is kept in the folder of the run's log: how the training was run, pictures of its
    first batches, and the predictions of the last evaluation.

    Args:
        most_images: of the evaluation that are analysed, so that it takes seconds; for all, there
            is ``tools/report.py``.
        batches: how many of the first batches are drawn.
    """

    priority = "LOWEST"

    def __init__(self, most_images: int = 300, batches: int = 2) -> None:
        self.most_images, self.batches = most_images, batches
        self._drawn = 0
        self._has_warned = False

    def before_train(self, runner) -> None:
        """Adds what keeps predictions to the evaluation, and notes how the training is run."""
        self._note(runner)
        if runner.val_loop is not None:
            # All processes, as they exchange their results.
            path = Path(runner.log_dir) / KEPT / "predictions.npz"
            keep = KeepPredictions(
                path,
                is_wanted=lambda: not _predicts_with_student(runner),
                on_error=lambda error: self._warn(runner, error),
            )
            keep.dataset_meta = runner.val_loop.dataloader.dataset.metainfo
            runner.val_loop.evaluator.metrics.append(keep)

    @_never_fatal
    def _note(self, runner: Any) -> None:
        if not is_main_process():
            return
        (Path(runner.log_dir) / KEPT).mkdir(exist_ok=True)
        parameters = list(runner.model.parameters())
        numbers = [
            sum(p.numel() for p in parameters),
            sum(p.numel() for p in parameters if p.requires_grad),
        ]
        about = describe_run(str(parameters[0].device), get_world_size(), numbers)
        write_json(Path(runner.log_dir) / KEPT / "run.json", about)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Draws the first batches."""
        if self._drawn < self.batches:
            self._drawn += 1
            self._draw(runner, data_batch)

    @_never_fatal
    def _draw(self, runner: Any, data_batch: Any) -> None:
        # A teacher and a student have a dictionary of views.
        is_plain = isinstance(data_batch, dict) and isinstance(data_batch.get("inputs"), list)
        if not is_main_process() or not is_plain:
            return
        pixels = draw_batch(data_batch, runner.train_dataloader.dataset.metainfo)
        path = Path(runner.log_dir) / KEPT / f"batch_{self._drawn}.jpg"
        with replace_file(path) as file:
            file.write(encode_jpeg(pixels))

    @_never_fatal
    def after_train(self, runner) -> None:
        """Writes the report."""
        if is_main_process():
            self._write(runner, self.most_images)

    @_never_fatal
    def after_stop(self, runner) -> None:
        """Writes a shorter one within seconds, as a signal has stopped the training.

        Launchers do not wait for the first process of several, so that these have none.
        """
        if get_world_size() == 1:
            with _time_limit(_SECONDS_AFTER_STOP):
                self._write(runner, min(self.most_images, _IMAGES_AFTER_STOP))
        elif is_main_process():
            notify_user(f"tools/report.py {runner.work_dir} writes a report of what was trained")

    def _write(self, runner: Any, most_images: int) -> None:
        start = time.monotonic()
        path = Path(runner.work_dir) / "report.html"
        report_on_run(runner.work_dir, most_images=most_images).write(path)
        runner.logger.info(f"the report took {time.monotonic() - start:.1f} s")
        notify_user(f"report: {path}")

    def _warn(self, runner: Any, error: Exception) -> None:
        runner.logger.info("of the report", exc_info=error)
        if not self._has_warned:
            self._has_warned = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            again = f"tools/report.py {runner.work_dir} tries again, --no-report spares it"
            notify_user(f"warning: no report, or not all of it ({reason}): {again}")


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises a TimeoutError after a time, in the main thread of systems with timers."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not in_main_thread:
        yield
        return

    def expire(*_: object) -> NoReturn:
        raise TimeoutError(f"it would take more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _predicts_with_student(runner: Any) -> bool:
    """Whether this evaluation is that of a student, which comes after that of its teacher."""
    settings = getattr(without_wrappers(runner.model), "semi_test_cfg", None) or {}
    return settings.get("predict_on") == "student"


def draw_batch(data_batch: dict[str, Any], meta: dict[str, Any], most: int = 12) -> np.ndarray:
    """The images of a batch with their labels, as tiles of one picture, (H, W, 3) BGR.

    Args:
        data_batch: ``inputs``, images (3, H, W) of 8 bits, BGR, and ``data_samples``.
        meta: the data set's ``classes`` and, if it has one, ``palette``.
        most: images that are drawn.
    """
    tiles = []
    pairs = zip(data_batch["inputs"], data_batch["data_samples"], strict=True)
    for image, sample in list(pairs)[:most]:
        pixels = np.ascontiguousarray(image.cpu().to(torch.uint8).permute(1, 2, 0).numpy())
        drawn = draw_sample(pixels, sample, meta, truth=True)
        scale = _TILE / max(drawn.shape[:2])
        small = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        tile = np.full((_TILE, _TILE, 3), 245, np.uint8)
        tile[: small.shape[0], : small.shape[1]] = small[:_TILE, :_TILE]
        tiles.append(tile)
    columns = min(len(tiles), 4 if len(tiles) > 4 else 2)
    rows = math.ceil(len(tiles) / columns)
    tiles += [np.full_like(tiles[0], 245)] * (rows * columns - len(tiles))
    return np.vstack([np.hstack(tiles[r * columns : (r + 1) * columns]) for r in range(rows)])
