"""Trainings for test_exact_resume.py, which draw and remember; torchrun runs it, too."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from swin_dense.engine.train import train

HERE = Path(__file__).parent
# A checkpoint with every step.
OPTIONS: dict[str, Any] = {
    "model.backbone.drop_path_rate": 0.3,
    "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}],
    "param_scheduler": [{"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 4}],
    "default_hooks.checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 1},
    "train_dataloader.batch_size": 2,
    "log_processor.window_size": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "detector": {  # two epochs of four batches
        "train_cfg.max_epochs": 2,
        "optim_wrapper.accumulative_counts": 2,
        "custom_hooks": [
            *OPTIONS["custom_hooks"],
            {"type": "EarlyStoppingHook", "monitor": "coco/bbox_mAP", "min_delta": 0.0},
            {"type": "CheckpointHook", "interval": 1},
            {"type": "SaveCompleteEpoch"},
        ],
    },
    "segmentor": {"train_cfg.max_iters": 6, "train_cfg.val_interval": 2},
}
# What is the same in a checkpoint, bit for bit, if the training was resumed.
EXACT = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")


@HOOKS.register_module()
class SaveCompleteEpoch(Hook):
    """Saves an epoch as complete by its number of iterations."""

    def after_train_epoch(self, runner) -> None:
        meta = {"epoch": runner.epoch + 1, "iter": runner.iter}
        runner.save_checkpoint(runner.work_dir, f"{runner.iter}.pth", meta=meta, by_epoch=False)


def run_training(
    kind: str, data_root: Path, work_dir: Path, options: dict | None = None, **settings: Any
) -> Runner:
    """A short training of a tiny model on a CPU."""
    settings = {"device": "cpu", "from_scratch": True, "report": False, **settings}
    options = OPTIONS | KINDS[kind] | (options or {})
    config = HERE / f"tiny_{kind}.py"
    return train(config, data_root=data_root, work_dir=work_dir, cfg_options=options, **settings)


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """The names of what differs in any bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        names = [f"{name}.{key}" for key in a.keys() ^ b.keys()]
        return names + [
            d for k in a.keys() & b.keys() for d in differences(a[k], b[k], f"{name}.{k}")
        ]
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{name}.{i}")]
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [name]
    return [] if a == b else [name]


def main(data_root: Path, out: Path) -> None:
    """Trains at once, and again from the middle of an epoch and of a step of the optimizer."""
    options = {"train_dataloader.batch_size": 1, "train_cfg.max_epochs": 1}
    options["train_cfg.val_begin"] = 9
    settings = {"launcher": "pytorch", "options": options}
    runner = run_training("detector", data_root, out / "whole", seed=3, **settings)
    losses, _ = runner.message_hub.get_scalar("train/loss").data
    (out / f"losses{get_rank()}.json").write_text(json.dumps(np.asarray(losses).tolist()))
    resume = str(out / "whole" / "iter_1.pth")
    run_training("detector", data_root, out / "resumed", resume=resume, **settings)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
