"""A training that takes milliseconds, in mmengine's loops, for tests of hooks."""

import os
import signal
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from swin_dense.engine.checkpoint_hook import CheckpointHook
from swin_dense.engine.runner import Runner
from swin_dense.engine.work_dir import find_checkpoint


class Tiny(BaseModel):
    """One weight, which each step moves."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode="tensor"):
        loss = (self.weight * inputs.sum()).square().sum()
        return {"loss": loss} if mode == "loss" else [loss]


class Score(BaseMetric):
    """Better with each evaluation."""

    def __init__(self):
        super().__init__()
        self.score = 0.0

    def process(self, data_batch, predictions):
        self.results.append(0)

    def compute_metrics(self, results):
        self.score += 1.0
        return {"acc": self.score}


def runner(
    work_dir: Path, steps: int = 6, by_epoch: bool = False, cfg=None, our_loop=False, **hook
) -> Runner:
    """Two batches in an epoch; the checkpoint in the work dir, if there is one, is resumed.

    The loop is mmengine's, unless ``our_loop``.
    """
    model = Tiny()
    data = torch.utils.data.TensorDataset(torch.arange(4.0))
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    order = {"type": "DefaultSampler", "shuffle": False}
    collate = {"type": "default_collate"}
    described = {"dataset": data, "batch_size": 2, "sampler": order, "collate_fn": collate}
    length = {"max_epochs": steps // 2} if by_epoch else {"max_iters": steps}
    kind = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    checkpoint = find_checkpoint(work_dir)
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=described if our_loop else loader,
        train_cfg={"type": kind, "val_interval": 1 if by_epoch else 2, **length},
        val_dataloader=loader,
        val_cfg={},
        val_evaluator=Evaluator([Score()]),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.001)),
        default_hooks={"checkpoint": CheckpointHook(by_epoch=by_epoch, **hook), "logger": None},
        resume=checkpoint is not None,
        load_from=checkpoint,
        log_level="ERROR",
        cfg={"device": "cpu", "optim_wrapper": {"type": "OptimWrapper"}} | (cfg or {}),
        launcher="pytorch" if "RANK" in os.environ else "none",
    )


class Send(Hook):
    """Sends this process a signal at a place and an iteration."""

    priority = "VERY_HIGH"

    def __init__(self, place: str, at: int, number: int = signal.SIGTERM) -> None:
        def send(runner, *_, **__):
            if runner.iter == at:
                os.kill(os.getpid(), number)

        setattr(self, place, send)
