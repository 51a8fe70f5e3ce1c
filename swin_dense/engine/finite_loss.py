"""Stopping a training whose loss has become infinite or NaN, with the last good checkpoint kept."""

import math
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook

from swin_dense.checkpoints import check_weights
from swin_dense.checkpoints.contents import BadContentError
from swin_dense.engine.launch import OtherProcessError
from swin_dense.engine.work_dir import named_checkpoint
from swin_dense.errors import UserError
from swin_dense.registry import HOOKS

_FIX = "lower optim_wrapper.optimizer.lr, or clip gradients (optim_wrapper.clip_grad)"


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Ends a training that cannot recover, and refuses to save weights that are not finite.

    It reads the loss that mmengine has logged, so that no GPU is waited for once more. Several
    processes compare theirs every tenth iteration and stop together.

    Args:
        patience: steps of the optimizer in a row whose loss is not finite, after which it ends.

    Raises:
        UserError: where mmengine calls the hook; names the last checkpoint.
    """

    priority = "LOW"  # after averages of weights, before checkpoints

    def __init__(self, patience: int = 20) -> None:
        self.patience = patience
        self._bad = 0  # iterations in a row

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Counts the iterations in a row whose loss is not finite."""
        history = runner.message_hub.log_scalars.get("train/loss")
        is_finite = history is None or math.isfinite(history.current())
        self._bad = 0 if is_finite else self._bad + 1
        bad = self._bad
        if get_world_size() > 1:
            if (runner.iter + 1) % 10:
                return
            of_all = torch.tensor(bad)
            all_reduce(of_all, "max")
            bad = int(of_all)
        if bad >= self.patience * getattr(runner.optim_wrapper, "_accumulative_counts", 1):
            kind = UserError if is_main_process() else OtherProcessError
            raise kind(
                f"the loss is not finite since iteration {runner.iter + 2 - bad}: "
                f"{_FIX}; {_last_good(runner)}"
            )

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Refuses weights that no tool of ours would read."""
        try:
            check_weights(checkpoint)
        except BadContentError as error:
            name = str(error).partition(", first ")[2].partition(":")[0]
            raise UserError(
                f"the weights are not finite any more, first {name}: {_FIX}; {_last_good(runner)}"
            ) from error


def _last_good(runner: Any) -> str:
    path = named_checkpoint(runner.work_dir)
    return f"the last good checkpoint is {path}" if path else "no checkpoint was saved before"
