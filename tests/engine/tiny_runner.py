"""Our runner with a model of three parameters, which trains within milliseconds."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from swin_dense.engine.runner import Runner


class Tiny(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor, mode: str = "tensor") -> Any:
        loss = self.layer(x).square().mean()
        return {"loss": loss} if mode == "loss" else loss


def tiny_runner(work_dir, by_epoch=True, length=1, lr=0.01, **settings) -> Runner:
    """Two steps an epoch; ``length`` is that of the training, in epochs or in pairs of steps."""
    data = torch.utils.data.TensorDataset(torch.arange(8.0).view(4, 2))
    optimizer = {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": lr}}
    epochs, steps = {"by_epoch": True, "max_epochs": length}, {"by_epoch": False}
    checkpoint = {"type": "CheckpointHook", "interval": 1 if by_epoch else 2, "by_epoch": by_epoch}
    schedule = [{"type": "LinearLR", "start_factor": 0.1, "by_epoch": True, "end": 2}]
    return Runner(
        model=Tiny(),
        work_dir=str(work_dir),
        train_dataloader=torch.utils.data.DataLoader(data, batch_size=2),
        train_cfg=epochs if by_epoch else steps | {"max_iters": 2 * length},
        optim_wrapper=optimizer,
        default_hooks={"checkpoint": checkpoint},
        cfg=Config({"device": "cpu", "optim_wrapper": optimizer}),
        **({"param_scheduler": schedule} | settings),
    )
