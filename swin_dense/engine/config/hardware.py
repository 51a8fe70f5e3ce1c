"""Fitting a config to the machine it runs on."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size

from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError


def use_amp(cfg: Config, device: torch.device) -> None:
    """Turns on automatic mixed precision with a dynamic loss scale, as ``--amp`` does in mmdet.

    Raises:
        UserError: the device is the CPU, which has no gradient scaling.
    """
    if device.type == "cpu":
        raise UserError("--amp needs a GPU: leave it out to train in float32 on the CPU")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def adapt_precision(cfg: Config, device: torch.device) -> None:
    """Trains in float32 where a config asks for mixed precision and there is no GPU."""
    wrapper = cfg.get("optim_wrapper")
    if device.type != "cpu" or not wrapper or wrapper.get("type") != "AmpOptimWrapper":
        return
    wrapper.type = "OptimWrapper"
    for key in ("loss_scale", "dtype", "use_fsdp"):
        wrapper.pop(key, None)
    notify_user("mixed precision needs a GPU: training in float32")


def adapt_workers(cfg: Config) -> None:
    """Leaves out of each data loader what is an error when it has no worker processes."""
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if loader and not loader.get("num_workers", 0):
            loader.persistent_workers = False
            loader.pop("prefetch_factor", None)


def scale_learning_rate(cfg: Config, path: str) -> None:
    """Lets the learning rate follow the batch size, as ``--auto-scale-lr`` does in mmdet.

    Raises:
        UserError: the config does not say for which batch size its learning rate is.
    """
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise UserError(
            f"--auto-scale-lr: {path} has no auto_scale_lr = dict(base_batch_size=...): add the "
            "batch size that its learning rate is for"
        )
    cfg.auto_scale_lr.enable = True


def advise_learning_rate(cfg: Config) -> None:
    """Says so when the batch is not the one that the learning rate was chosen for."""
    scale = cfg.get("auto_scale_lr") or {}
    base, size = scale.get("base_batch_size"), cfg.train_dataloader.get("batch_size")
    if base is None or size is None or scale.get("enable"):
        return
    batch = size * get_world_size()
    if batch != base:
        notify_user(
            f"the learning rate is for batches of {base}, this run's are of {batch}: "
            "--auto-scale-lr scales it"
        )
