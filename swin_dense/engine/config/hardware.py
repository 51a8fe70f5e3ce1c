"""Adapting a config to the hardware: precision, worker processes, batch size."""

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size

from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError


def set_precision(cfg: Config, device: torch.device, amp: bool = False) -> None:
    """Turns on mixed precision for ``--amp``, as mmdet does; off on a CPU, if the config has it.

    Raises:
        UserError: ``--amp`` on a CPU, which has no gradient scaling.
    """
    wrapper = cfg.optim_wrapper
    if amp and device.type == "cpu":
        raise UserError("--amp needs a GPU: without it, a CPU trains in float32")
    if amp:
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    elif device.type == "cpu" and wrapper.get("type") == "AmpOptimWrapper":
        wrapper.type = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)
        notify_user("mixed precision needs a GPU: training in float32")


def adapt_workers(cfg: Config) -> None:
    """Removes from data loaders without worker processes the settings of these processes."""
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if loader and not loader.get("num_workers", 0):
            loader.persistent_workers = False
            loader.pop("prefetch_factor", None)


def scale_learning_rate(cfg: Config, path: str) -> None:
    """Scales the learning rate with the batch size, as ``--auto-scale-lr`` does in mmdet.

    Raises:
        UserError: the config does not tell the batch size that its learning rate is for.
    """
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise UserError(
            f"--auto-scale-lr: {path} has no auto_scale_lr = dict(base_batch_size=...): add the "
            "batch size that its learning rate is for"
        )
    cfg.auto_scale_lr.enable = True


def advise_learning_rate(cfg: Config) -> None:
    """Warns when the batch size is not the one that the learning rate was chosen for."""
    scale = cfg.get("auto_scale_lr") or {}
    base, size = scale.get("base_batch_size"), cfg.train_dataloader.get("batch_size")
    if base is None or size is None or scale.get("enable"):
        return
    if (batch := size * get_world_size()) != base:
        text = f"the learning rate is for a batch size of {base}, this run has {batch}"
        notify_user(f"{text}: --auto-scale-lr scales it")
