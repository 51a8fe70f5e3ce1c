"""Early stopping that tells the user."""

import math
from typing import Any

from mmengine.hooks import EarlyStoppingHook as MMEngineEarlyStoppingHook

from swin_dense.engine.terminal.console import notify_user
from swin_dense.registry import HOOKS


@HOOKS.register_module()
class EarlyStoppingHook(MMEngineEarlyStoppingHook):
    """mmengine's, with the same arguments, which says on the terminal why a training stops."""

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any]) -> None:
        """Stops the training, if it got no better for long."""
        super().after_val_epoch(runner, metrics)
        if runner.train_loop.stop_training:
            notify_user(
                f"stopping early: {self.monitor} was {metrics.get(self.monitor, math.nan):.3f}, "
                f"the best {self.best_score:.3f}, and {self.wait_count} evaluations were not better"
            )
