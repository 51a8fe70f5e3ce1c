"""Training a detector or a segmentor from a config."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from swin_dense.datasets.check import check_data
from swin_dense.engine.config.hardware import (
    adapt_precision,
    adapt_workers,
    advise_learning_rate,
    scale_learning_rate,
    use_amp,
)
from swin_dense.engine.config.load import load_config
from swin_dense.engine.config.pretrained import drop_pretrained, ensure_pretrained
from swin_dense.engine.device import choose_device
from swin_dense.engine.distributed import init_distributed, on_first_process
from swin_dense.engine.paths import make_output_dir
from swin_dense.engine.runner import Runner as QuietRunner
from swin_dense.engine.runner import device_of, parameter_count, warn_of_earlier_run
from swin_dense.engine.terminal.console import notify_user, quiet_terminal
from swin_dense.engine.terminal.metrics import metrics_file
from swin_dense.engine.terminal.progress import ProgressHook
from swin_dense.errors import UserError

_NEEDED = ("model", "train_dataloader", "train_cfg", "optim_wrapper")


def train(
    config: str | Path,
    *,
    work_dir: str | Path | None = None,
    data_root: str | Path | None = None,
    from_scratch: bool = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = "none",
    device: str = "auto",
    seed: int | None = None,
) -> Runner:
    """Trains what a config describes, as ``tools/train.py`` does.

    Args:
        config: the config file, of mmdet's or mmseg's kind.
        work_dir: where checkpoints and logs go (``work_dirs/<config name>``).
        data_root: folder that every data set and evaluator is pointed to.
        from_scratch: leave out pretrained weights.
        amp: mixed precision with a dynamic loss scale.
        auto_scale_lr: scale the learning rate to the batch size.
        resume: None; 'auto' for the latest checkpoint of the work dir; or a checkpoint file.
        cfg_options: dotted config keys and their new values.
        launcher: 'none', or what started the processes: 'pytorch', 'slurm', 'mpi'.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        seed: of all random numbers; without it the config's, else one is drawn.

    Returns:
        The runner, after training; the loss of every logged step is in its
        ``log_dir/vis_data/scalars.json``.

    Raises:
        UserError: something that was given is missing or does not fit.
    """
    with quiet_terminal():
        cfg = load_config(config, cfg_options, data_root, from_scratch, work_dir)
        _check_trainable(cfg, config)
        cfg.launcher = launcher
        chosen = choose_device(device, launcher)
        init_distributed(cfg, chosen)
        _set_resume(cfg, resume)
        if amp:
            use_amp(cfg, chosen)
        if auto_scale_lr:
            scale_learning_rate(cfg, str(config))
        if seed is not None:
            cfg.randomness = {**(cfg.get("randomness") or {}), "seed": seed}
        return train_config(cfg, chosen)


def train_config(cfg: Config, device: torch.device) -> Runner:
    """Trains a config that is already loaded, on a device that is already chosen.

    Raises:
        UserError: pretrained weights, data or work dir are missing or unusable.
    """
    with quiet_terminal():
        cfg.device = device.type
        adapt_precision(cfg, device)
        adapt_workers(cfg)
        ensure_pretrained(cfg)
        on_first_process(lambda: _check_inputs(cfg))
        advise_learning_rate(cfg)
        add_terminal_hooks(cfg)
        runner = build_runner(cfg)
        _announce(runner)
        run_closing_bar(runner, runner.train)
        _report(runner)
        return runner


def build_runner(cfg: Config) -> Runner:
    """Our runner, or the one that the config's ``runner_type`` names."""
    return RUNNERS.build(cfg) if "runner_type" in cfg else QuietRunner.from_cfg(cfg)


def add_terminal_hooks(cfg: Config) -> None:
    """Adds the hooks that show progress and metrics, unless the config has its own."""
    hooks = list(cfg.get("custom_hooks") or [])
    present = {str(hook["type"]).rpartition(".")[2] for hook in hooks if "type" in hook}
    # Metrics first: its table belongs below the bar that the other one closes.
    for name in ("ProgressHook", "MetricsHook"):
        if name not in present:
            hooks.append({"type": f"swin_dense.{name}"})
    cfg.custom_hooks = hooks


def run_closing_bar(runner: Runner, run: Callable[[], Any]) -> Any:
    """Runs, and takes the progress bar off the terminal if that fails."""
    try:
        return run()
    finally:
        for hook in runner.hooks:
            if isinstance(hook, ProgressHook):
                hook.close()


def _check_trainable(cfg: Config, path: str | Path) -> None:
    missing = [key for key in _NEEDED if not cfg.get(key)]
    if missing:
        raise UserError(f"{path} cannot be trained: it has no {', '.join(missing)}")


def _set_resume(cfg: Config, resume: str | None) -> None:
    """Sets what the runner resumes from; the checkpoint replaces pretrained weights."""
    if resume is None and not cfg.get("resume"):
        return
    checkpoint = resume if resume not in (None, "auto") else cfg.get("load_from")
    if resume == "auto" or checkpoint is None:
        checkpoint = find_latest_checkpoint(cfg.work_dir) if os.path.isdir(cfg.work_dir) else None
        if checkpoint is None:
            raise UserError(
                f"nothing to resume: {cfg.work_dir} has no checkpoint; give --resume a checkpoint "
                "file or --work-dir the folder of the earlier run"
            )
    if "://" not in str(checkpoint) and not os.path.isfile(checkpoint):
        raise UserError(f"nothing to resume: no such checkpoint: {checkpoint}")
    drop_pretrained(cfg)
    cfg.resume, cfg.load_from = True, str(checkpoint)


def _check_inputs(cfg: Config) -> None:
    for warning in check_data(cfg, splits=("train", "val")):
        notify_user(f"warning: {warning}")
    make_output_dir(cfg.work_dir, "--work-dir")
    warn_of_earlier_run(cfg.work_dir, bool(cfg.get("resume")))


def _announce(runner: Runner) -> None:
    """Says what is trained, on what and where, in two lines."""
    model = getattr(runner.model, "module", runner.model)
    processes = f", {get_world_size()} processes" if get_world_size() > 1 else ""
    notify_user(
        f"training {type(model).__name__} with {parameter_count(model) / 1e6:.1f} M parameters "
        f"on {device_of(model)}{processes}"
    )
    notify_user(f"log: {getattr(runner, 'log_file', runner.log_dir)}")


def _report(runner: Runner) -> None:
    """Says where the results are."""
    if runner.rank != 0:
        return
    checkpoint = find_latest_checkpoint(runner.work_dir)
    best = [runner.message_hub.get_info(k) for k in _best_keys(runner)]
    if checkpoint is not None:
        notify_user(f"checkpoint: {checkpoint}, also as {link_latest(checkpoint)}")
    for path in best:
        notify_user(f"best checkpoint: {path}")
    if metrics_file(runner).is_file():
        notify_user(f"metrics: {metrics_file(runner)}")
    notify_user(f"log: {getattr(runner, 'log_file', runner.log_dir)}")


def link_latest(checkpoint: str | Path) -> Path:
    """Gives a checkpoint the name ``last.pth`` too, the same after every run.

    Returns:
        Its path: a link, or a copy where the file system has no links.
    """
    checkpoint = Path(checkpoint)
    link = checkpoint.with_name("last.pth")
    part = link.with_name("last.pth.part")
    part.unlink(missing_ok=True)
    try:
        part.symlink_to(checkpoint.name)
    except OSError:
        shutil.copyfile(checkpoint, part)
    os.replace(part, link)
    return link


def _best_keys(runner: Runner) -> list[str]:
    return [k for k in runner.message_hub.runtime_info if k.startswith("best_ckpt")]
