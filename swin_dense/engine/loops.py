"""mmengine's training loops, which go on exactly where a checkpoint was saved.

Every step seeds all generators by its number, after its images were loaded (see
:mod:`swin_dense.datasets.batches`). So no state of a generator has to be saved, and evaluations in
between change nothing.
"""

import math
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from swin_dense.datasets.batches import resumable_loader, seed_loading, seed_step

_VAL_INTERVAL = 1000  # mmengine's default, in iterations


class EpochLoop(EpochBasedTrainLoop):
    """Trains epoch by epoch, from any batch of an epoch on."""

    def __init__(self, runner: Any, dataloader: dict, **settings: Any) -> None:
        self._seed = shared_seed(runner)
        super().__init__(runner, resumable_loader(dataloader, self._seed, False), **settings)
        seed_loading(self.dataloader.dataset)
        self.batches = 0  # of the current epoch, those in a checkpoint that is saved now

    def run(self) -> nn.Module:
        """Trains, or goes on where a checkpoint was saved."""
        self.runner.call_hook("before_train")
        if self._epoch and not self.batches:
            self._evaluate_if_due()  # a checkpoint is saved before the evaluation of its epoch
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._evaluate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Trains on what is left of an epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.dataloader.batch_sampler.go_to(self._epoch, self.batches)
        for index, data in enumerate(self.dataloader, self.batches):
            self.run_iter(index, data)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.batches = 0

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """One step."""
        seed_step(self._seed, self._iter)
        self.batches = idx + 1  # hooks come before mmengine counts the step
        super().run_iter(idx, data_batch)

    def _evaluate_if_due(self) -> None:
        self._decide_current_val_interval()
        at_end = self._epoch == self._max_epochs
        due = self._epoch >= self.val_begin and (self._epoch % self.val_interval == 0 or at_end)
        if self.runner.val_loop is not None and due:
            self.runner.val_loop.run()


class IterationLoop(IterBasedTrainLoop):
    """Trains iteration by iteration, from any on.

    ``max_epochs`` in its config counts instead how often each image is trained on; evaluations and
    checkpoints are then as many as in the ``max_iters`` that the config has too.
    """

    def __init__(
        self, runner: Any, dataloader: dict, max_epochs: int | None = None, **settings: Any
    ) -> None:
        self._seed = shared_seed(runner)
        loader = runner.build_dataloader(
            resumable_loader(dataloader, self._seed, True), seed=runner.seed
        )
        seed_loading(loader.dataset)
        self.shortened = 1.0  # this training's length, over that of the config's max_iters
        if max_epochs is not None:
            batch = loader.batch_sampler.batch_size * get_world_size()
            steps = max_epochs * math.ceil(len(loader.dataset) / batch)
            self.shortened = steps / settings.get("max_iters", steps)
            settings["max_iters"] = steps
            interval = settings.get("val_interval", _VAL_INTERVAL)
            settings["val_interval"] = max(round(interval * self.shortened), 1)
        # mmengine's would start to load before a checkpoint says where to go on.
        super().__init__(runner, DataLoader(loader.dataset, sampler=[]), **settings)
        self.dataloader = loader
        self.batches = 0  # those in a checkpoint that is saved now

    def run(self) -> nn.Module:
        """Trains, or goes on where a checkpoint was saved."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.batches = self._iter
        if self._iter:
            self._evaluate_if_due()  # a checkpoint is saved before the evaluation of its step
        self.dataloader.batch_sampler.go_to(0, self._iter)
        self.dataloader_iterator = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._evaluate_if_due()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self, data_batch: Any) -> None:
        """One step."""
        seed_step(self._seed, self._iter)
        self.batches = self._iter + 1
        super().run_iter(data_batch)

    def _evaluate_if_due(self) -> None:
        self._decide_current_val_interval()
        at_end = self._iter == self._max_iters
        due = self._iter >= self.val_begin and (self._iter % self.val_interval == 0 or at_end)
        if self.runner.val_loop is not None and due:
            self.runner.val_loop.run()


_OURS = {EpochBasedTrainLoop: EpochLoop, IterBasedTrainLoop: IterationLoop}


def exact_loop(loop: BaseLoop | dict, dataloader: Any) -> BaseLoop | dict:
    """The config of our loop in place of mmengine's; others stay as they are."""
    if not isinstance(loop, dict) or not isinstance(dataloader, dict):
        return loop
    loop, kind = dict(loop), loop.get("type")
    if kind is None and "by_epoch" in loop:
        kind = EpochBasedTrainLoop if loop.pop("by_epoch") else IterBasedTrainLoop
    kind = LOOPS.get(kind) if isinstance(kind, str) else kind
    built = isinstance(dataloader.get("batch_sampler") or {}, dict)
    return {**loop, "type": _OURS[kind]} if kind in _OURS and built else loop


def shared_seed(runner: Any) -> int:
    """The seed of a training, in all its processes."""
    own = runner._randomness_cfg.get("diff_rank_seed", False)
    return runner.seed - get_rank() if own else runner.seed
