"""Adapting a config to the hardware: precision, speed, worker processes, batch size."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from torch.optim import AdamW

from swin_dense.config_tree import is_segmentation
from swin_dense.engine.precision import (
    BF16_WRAPPER,
    FP16_WRAPPER,
    needs_gpu,
    precision_of,
    trained_precision,
)
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError

# Arguments of an optimizer that choose how it computes.
_OWN_KERNELS = {"fused", "foreach", "capturable", "differentiable"}
# Recipes for COCO have 88,000 and more; in a short training, a rate that is high does no harm.
_MANY_STEPS = 20_000


def set_precision(cfg: Config, device: torch.device, amp: str | None = None) -> None:
    """Sets the optimizer wrapper for ``--amp``, a resumed checkpoint, or the device.

    Args:
        cfg: the config; with ``resume``, its ``load_from`` is the checkpoint.
        device: where it trains. A GPU has fp16, most have bf16; a CPU has bf16.
        amp: 'fp32', 'fp16' or 'bf16'; 'auto' for what the checkpoint was trained in, else the dtype
            that the config names, else bf16 or, if the device lacks it, fp16; None for what the
            checkpoint was trained in, else what the config asks for, or, if the device lacks that,
            float32, of which the user is told.

    Raises:
        UserError: the device lacks the precision that ``amp`` names.
    """
    wrapper, own, possible = cfg.optim_wrapper, precision_of(cfg), _precisions(device)
    resumed = trained_precision(cfg.load_from) if cfg.get("resume") else None
    chosen = amp or resumed or own
    if amp == "auto":
        named = own if wrapper.get("dtype") else None
        chosen = next(p for p in (resumed, named, possible[-1]) if p in possible[1:])
    by_config = amp is None and resumed is None
    without_gpu = device.type == "cpu" and needs_gpu(cfg)
    if chosen not in possible or (by_config and without_gpu):
        if amp is not None:
            why = "needs a GPU" if device.type == "cpu" else "is not supported by this GPU"
            raise UserError(f"--amp {amp} {why}: use --amp {possible[-1]}")
        notify_user(f"{chosen} is not supported on this {device.type}: training in float32")
        chosen = "fp32"
    if resumed not in (None, chosen):
        notify_user(f"the checkpoint was trained in {resumed}, this run continues in {chosen}")
    if chosen == own and by_config:
        return  # its loss scaling may be special
    if chosen == "fp16":
        wrapper.update(type=FP16_WRAPPER, dtype="float16")
        wrapper.setdefault("loss_scale", "dynamic")
    elif own != "fp32" or chosen == "bf16":
        wrapper.type = BF16_WRAPPER if chosen == "bf16" else "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)


def _precisions(device: torch.device) -> tuple[str, ...]:
    """What the device trains in, the best for mixed precision last."""
    if device.type == "cpu":
        return ("fp32", "bf16")
    # A GPU of before 2020 emulates bfloat16, slowly.
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return ("fp32", "fp16", "bf16") if has_bf16 else ("fp32", "fp16")


def allow_tf32(cfg: Config, device: torch.device) -> None:
    """Multiplies float32 matrices in TF32, for ``--tf32``.

    Raises:
        UserError: the device has none.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        raise UserError(
            "--tf32 needs an NVIDIA GPU of compute capability 8.0 or above (A100, RTX 30, later): "
            "remove it"
        )
    cfg.env_cfg = {**(cfg.get("env_cfg") or {}), "tf32": True}


def use_gpu(cfg: Config, device: torch.device) -> None:
    """Turns on what makes a step on a GPU faster, where the config does not say otherwise.

    - ``fused`` of AdamW: one kernel, in place of one for every operation and group of parameters.
    - ``cudnn_benchmark`` where all training images have the same size, as a segmentor's crops do.
      Where sizes vary, convolutions would be timed again for each new size.
    - ``pin_memory`` and ``persistent_workers`` of data loaders: batches wait in memory that a GPU
      copies from by itself, and worker processes stay from epoch to epoch.

    Gradients are clipped by PyTorch's foreach functions without being asked.
    """
    if device.type != "cuda":
        return
    optimizer: Any = (cfg.get("optim_wrapper") or {}).get("optimizer") or {}
    if optimizer.get("type") in ("AdamW", AdamW) and not _OWN_KERNELS & optimizer.keys():
        optimizer.fused = True
    env = cfg.get("env_cfg") or {}
    if "cudnn_benchmark" not in env:
        preprocessor = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
        fixed = is_segmentation(cfg) and preprocessor.get("size") is not None
        cfg.env_cfg = {**env, "cudnn_benchmark": fixed}
    for split in ("train", "val", "test"):
        if loader := cfg.get(f"{split}_dataloader"):
            loader.setdefault("pin_memory", True)
            loader.setdefault("persistent_workers", True)


def adapt_workers(cfg: Config) -> None:
    """Removes from data loaders without worker processes the settings of these processes."""
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if loader and not loader.get("num_workers", 0):
            loader.persistent_workers = False
            loader.pop("prefetch_factor", None)


def accumulate_gradients(cfg: Config, batches: int) -> None:
    """Adds up the gradients of so many batches for each step of the optimizer.

    The sum is that of a batch of all their images as far as the loss is a mean over images, as it
    is in segmentation without batch normalisation. A detector divides by what it counts in a batch.

    Raises:
        UserError: it is less than one batch.
    """
    if batches < 1:
        raise UserError(f"--accumulate {batches}: give a number of batches, 1 or more")
    cfg.optim_wrapper.accumulative_counts = batches


def _accumulated(cfg: Config) -> int:
    return (cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1)


def scale_learning_rate(cfg: Config, path: str) -> None:
    """Scales the learning rate with the batch size, as ``--auto-scale-lr`` does in mmdet.

    Batches whose gradients are added up count as one.

    Raises:
        UserError: the config does not tell the batch size that its learning rate is for, or the
            learning rate is that of ``--lr``.
    """
    if "auto_scale_lr" in cfg and cfg.auto_scale_lr is None:  # as --lr sets it
        raise UserError("--auto-scale-lr would change --lr, which is for this run: remove one")
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise UserError(
            f"--auto-scale-lr: {path} has no auto_scale_lr = dict(base_batch_size=...): add the "
            "batch size that its learning rate is for"
        )
    cfg.auto_scale_lr.enable = True
    if (batches := _accumulated(cfg)) > 1:  # mmengine does not count them
        cfg.auto_scale_lr.base_batch_size /= batches


def advise_learning_rate(cfg: Config, steps: int) -> str:
    """The learning rate of a training in words, and what it would be for its batches.

    Of the recipes here it is for batches of 16. Smaller ones take more steps, each of which should
    be smaller; but a training of few steps would then learn less still, so it is not advised.
    """
    rate = (cfg.optim_wrapper.get("optimizer") or {}).get("lr")
    scale, size = cfg.get("auto_scale_lr") or {}, cfg.train_dataloader.get("batch_size")
    if rate is None:
        return "learning rate as the config has it"
    base, text = scale.get("base_batch_size"), f"learning rate {rate:.3g}"
    if base is None or size is None:
        return text
    batch, whole = size * get_world_size() * _accumulated(cfg), base * _accumulated(cfg)
    if scale.get("enable"):
        batches = f"{whole:g} to {batch}"
        return f"learning rate {rate * batch / whole:.3g} (scaled from {rate:.3g}, batch {batches})"
    if batch > base or (batch < base and steps >= _MANY_STEPS):
        return f"{text}, for batches of {base}: --auto-scale-lr makes it {rate * batch / base:.3g}"
    return text
