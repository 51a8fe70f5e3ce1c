"""Saving checkpoints so that a training can always go on, whenever and however it is ended."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook

from swin_dense.engine.loops import EpochLoop, IterationLoop
from swin_dense.engine.terminal.hooks import is_epoch_based
from swin_dense.files import link_file, remove_parts, write_text
from swin_dense.registry import HOOKS

KEPT_BETWEEN = 2
"""How many checkpoints of ``save_every`` are kept: the last one, and one if that is damaged."""


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's hook, with the same arguments, but:

    - A checkpoint is complete and on the disk before ``last_checkpoint`` and ``last.pth`` are
      changed, and before older ones (``max_keep_ckpts``, ``save_best``) are removed.
    - ``last_checkpoint`` holds the name of a file in the work dir, and the best checkpoint of a
      resumed run is looked for in its own folder: folders may be moved and copied.
    - ``last.pth`` is the newest checkpoint at any time, and ``best.pth`` the best one: by the first
      metric of ``save_best``.
    - ``interval`` shrinks with a training that ``max_epochs`` makes shorter than its config.
    - ``save_every``: saves ``iter_N.pth`` after each so many iterations too, whatever ``interval``
      counts. The last two of these are kept.
    """

    best_ckpt_path: str | None
    file_backend: Any
    interval: int

    def __init__(self, *args: Any, save_every: int | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.save_every = save_every
        self.saved_at: int | None = None  # the iteration of the newest checkpoint
        self._is_due = False
        self._between: list[int] = []  # iterations of the checkpoints of save_between

    def before_train(self, runner) -> None:
        """Takes over what the resumed checkpoint tells of older ones."""
        super().before_train(runner)
        if not self.by_epoch and self.interval > 0:
            shortened = getattr(runner.train_loop, "shortened", 1)
            self.interval = max(round(self.interval * shortened), 1)
        info = runner.message_hub.runtime_info
        for key in [key for key in info if key.startswith("best_ckpt")]:
            runner.message_hub.update_info(key, self._here(info[key]))
        if hasattr(self, "best_ckpt_path"):
            self.best_ckpt_path = self._here(self.best_ckpt_path)
        for key, path in getattr(self, "best_ckpt_path_dict", {}).items():
            self.best_ckpt_path_dict[key] = self._here(path)
        self._between = list(info.get("between_ckpt_ids", []))
        self._remove_between()
        if is_main_process() and self._is_local() and os.path.isdir(self.out_dir):
            remove_parts(self.out_dir)
            resumed = Path(runner._load_from or "").resolve()
            if runner._resume and resumed.parent == Path(self.out_dir).resolve():
                self._name_as_last(runner, resumed.name)  # it may have been killed before that
                self._name_best()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Saves after every ``interval`` iterations, if it counts them, and ``save_every``."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        done = runner.iter + 1
        if self.save_every and done % self.save_every == 0:
            self._is_due = True
        if self._is_due and is_between_steps(runner, done) and not ends_epoch(runner, batch_idx):
            self.save_between(runner, runner.epoch, done)

    def after_train_epoch(self, runner) -> None:
        """Saves after every ``interval`` epochs, if it counts them, and what is still due."""
        super().after_train_epoch(runner)
        if self._is_due and is_epoch_based(runner):
            self.save_between(runner, runner.epoch + 1, runner.iter)

    def after_train(self, runner) -> None:
        """Saves what a training that was ended early has learned since its last checkpoint."""
        if getattr(runner.train_loop, "stop_training", False):
            self.save_between(runner, runner.epoch, runner.iter)
        super().after_train(runner)

    def save_between(self, runner, epoch: int, done: int) -> str:
        """Saves ``iter_N.pth``, if there is no checkpoint of this state; returns its path.

        Args:
            epoch: how many epochs are complete.
            done: how many iterations are.
        """
        self._is_due = False
        if self.saved_at != done:
            if done not in self._between:
                self._between.append(done)
            runner.message_hub.update_info("between_ckpt_ids", list(self._between))
            self._write(runner, f"iter_{done}.pth", {"epoch": epoch, "iter": done}, by_epoch=False)
            self._remove_between()
            runner.message_hub.update_info("between_ckpt_ids", list(self._between))
        return str(self.last_ckpt)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict[str, Any]) -> None:
        """Replaces mmengine's: saves, and then removes what is too old."""
        exact = isinstance(runner.train_loop, (EpochLoop, IterationLoop))
        if exact and self.saved_at == meta["iter"]:
            # mmengine saves again when an evaluation has found the best checkpoint. Our loops
            # repeat the evaluation after the checkpoint before it, which finds it again, and would
            # repeat it after this one too: schedulers that look at it would count it twice.
            return
        kept = [*getattr(self, "keep_ckpt_ids", ())]
        name = self.filename_tmpl.format(step)
        self._between = [done for done in self._between if f"iter_{done}.pth" != name]
        runner.message_hub.update_info("between_ckpt_ids", list(self._between))
        if self.max_keep_ckpts > 0:
            kept = [*(one for one in kept if one != step), step]
            # Also what is about to be removed: before_train does so if this process cannot.
            runner.message_hub.update_info("keep_ckpt_ids", list(kept))
        self._write(runner, name, meta, self.by_epoch)
        if self.max_keep_ckpts > 0:
            self._remove(self.filename_tmpl.format(one) for one in kept[: -self.max_keep_ckpts])
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

    def _write(self, runner, name: str, meta: dict[str, Any], by_epoch: bool) -> None:
        done = meta["iter"]
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self.saved_at = done
        if is_main_process():
            self._name_as_last(runner, name)

    def _name_as_last(self, runner, name: str) -> None:
        """Lets ``last_checkpoint`` and ``last.pth`` stand for a checkpoint in the folder."""
        in_work_dir = os.path.abspath(self.out_dir) == os.path.abspath(runner.work_dir)
        path = self.file_backend.join_path(self.out_dir, name)
        path = os.path.abspath(path) if self._is_local() else str(path)
        write_text(Path(runner.work_dir, "last_checkpoint"), name if in_work_dir else path)
        if self._is_local() and name != "last.pth":
            link_file(path, Path(self.out_dir, "last.pth"))

    def _save_best_checkpoint(self, runner, metrics: dict[str, float]) -> None:
        """mmengine's, but the best one so far is removed after the new one is complete."""
        backend, later = self.file_backend, _RemoveLater(self.file_backend)
        self.file_backend = later
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        self._name_best()
        best = self._best_checkpoints()
        self._remove(os.path.basename(path) for path in later.paths if path not in best)

    def _name_best(self) -> None:
        """Lets ``best.pth`` stand for the best checkpoint, if there is one."""
        best = next(filter(None, self._best_checkpoints()), None)
        if best and is_main_process() and self._is_local() and os.path.isfile(best):
            link_file(os.path.abspath(best), Path(self.out_dir, "best.pth"))

    def _best_checkpoints(self) -> list[str | None]:
        """The path of the best checkpoint by each metric of ``save_best``; None before it."""
        paths = [getattr(self, "best_ckpt_path", None)]
        return [*paths, *getattr(self, "best_ckpt_path_dict", {}).values()]

    def _remove_between(self) -> None:
        self._remove(f"iter_{done}.pth" for done in self._between[:-KEPT_BETWEEN])
        self._between = self._between[-KEPT_BETWEEN:]

    def _remove(self, names: Iterable[str]) -> None:
        for name in names if is_main_process() else ():
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # of strategies that save a folder
                self.file_backend.rmtree(path)

    def _here(self, path: str | None) -> str | None:
        """Where a checkpoint of a run that was resumed is now."""
        return path and self.file_backend.join_path(self.out_dir, os.path.basename(path))

    def _is_local(self) -> bool:
        return "://" not in str(self.out_dir) and not (self.backend_args or self.file_client_args)


class _RemoveLater:
    """A file backend that only notes what it shall remove."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.paths: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.paths.append(path)

    rmtree = remove


def is_between_steps(runner, done: int) -> bool:
    """Whether after so many iterations no gradients are still being added up."""
    count = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
    return done % count == 0 or done == runner.max_iters


def ends_epoch(runner, batch_idx: int) -> bool:
    """Whether an epoch, of a training that counts them, ends with this batch."""
    return is_epoch_based(runner) and batch_idx + 1 == len(runner.train_dataloader)
