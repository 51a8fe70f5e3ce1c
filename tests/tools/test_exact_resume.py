"""A training that is resumed ends as one that was never stopped, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swin_dense.engine.train import train

HERE = Path(__file__).parent
# Whatever draws numbers or has a state. A checkpoint with every step.
OPTIONS: dict[str, Any] = {
    "model.backbone.drop_path_rate": 0.3,
    "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}],
    "param_scheduler": [{"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 4}],
    "default_hooks.checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 1},
    "train_dataloader.batch_size": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "detector": {"train_cfg.max_epochs": 2},  # of four steps
    "segmentor": {"train_cfg.max_iters": 6, "train_cfg.val_interval": 2},
}
PARTS = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")


def run(kind: str, data_root: Path, work_dir: Path, options: dict, **settings: Any) -> dict:
    """The last checkpoint of a training."""
    options = OPTIONS | KINDS[kind] | options
    train(
        HERE / f"tiny_{kind}.py",
        data_root=data_root,
        work_dir=work_dir,
        from_scratch=True,
        cfg_options=options,
        device="cpu",
        **settings,
    )
    return torch.load(work_dir / "last.pth", weights_only=True)


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Where two nested containers differ in any bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        missing = [f"{name}.{key}" for key in a.keys() ^ b.keys()]
        return missing + [
            d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{name}.{key}")
        ]
    if isinstance(a, (list, tuple)):
        return [
            d
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differences(x, y, f"{name}[{i}]")
        ]
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [name]
    return [] if np.array_equal(a, b) else [name]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_it(kind, workers, shapes_root, tmp_path):
    more = {"train_dataloader.num_workers": workers}
    whole = run(kind, shapes_root, tmp_path / "whole", more, seed=3)
    for step in (3, 4):
        resume = str(tmp_path / "whole" / f"iter_{step}.pth")
        resumed = run(kind, shapes_root, tmp_path / f"from_{step}", more, resume=resume)
        for part in PARTS:
            assert not differences(whole[part], resumed[part], part)
        assert whole["meta"]["evaluations"] == resumed["meta"]["evaluations"]
