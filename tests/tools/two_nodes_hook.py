"""For two_nodes.py: the hook that writes a process's weights, after it killed a process once."""

import os
import signal
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

KILLED_AT = 6  # the iteration after which the second process is killed, the first time


@HOOKS.register_module()
class WriteWeights(Hook):
    """Writes the sum and the norm of each parameter at the end."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        killed = Path(runner.work_dir) / "killed.txt"
        if runner.iter + 1 == KILLED_AT and get_rank() == 1 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train(self, runner):
        values = [
            (p.double().sum().item(), p.double().norm().item()) for p in runner.model.parameters()
        ]
        path = Path(runner.work_dir) / f"rank{get_rank()}.txt"
        path.write_text("\n".join([type(runner.model).__name__, *map(repr, values)]))
