"""Training a detector or a segmentor from a config."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size
from mmengine.runner import Runner

from swin_dense.datasets.check import check_data
from swin_dense.datasets.reading import skipped_files
from swin_dense.engine.children import linked_processes
from swin_dense.engine.config.prepare import RunOptions, TrainingOptions, prepare_training
from swin_dense.engine.config.pretrained import ensure_pretrained
from swin_dense.engine.launch import continues_by_itself, init_distributed, on_first_process
from swin_dense.engine.paths import make_output_dir, output_errors
from swin_dense.engine.precision import precision_in_words
from swin_dense.engine.runner import build_runner, run_with_progress
from swin_dense.engine.stopping import StopHook, stop_requests
from swin_dense.engine.terminal.console import notify_user, quiet_terminal
from swin_dense.engine.terminal.metrics import metrics_file
from swin_dense.engine.work_dir import (
    OverwriteHook,
    holds_run,
    how_to_resume,
    lock_work_dir,
    named_checkpoint,
    take_new_work_dir,
)
from swin_dense.errors import StoppedError, UserError
from swin_dense.files import remove_parts, write_json

_SHOWN = 20  # skipped images that the terminal lists


def train(
    config: str | Path,
    *,
    work_dir: str | Path | None = None,
    data_root: str | Path | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = "none",
    device: str = "auto",
    tf32: bool = False,
    **options: Any,
) -> Runner:
    """Trains what a config describes, as ``tools/train.py`` does.

    Args:
        config: the config file, of mmdet's or mmseg's kind.
        work_dir: where checkpoints and logs go; with a number, if another run is there.
        data_root, cfg_options, launcher, device: as of :func:`~swin_dense.engine.test.evaluate`.
        tf32: multiply float32 matrices in TF32.
        options: ``resume``, ``weights``, ``epochs`` and others: all attributes of
            :class:`~swin_dense.engine.config.prepare.TrainingOptions` and
            :class:`~swin_dense.engine.config.fit.FitOptions`.

    Returns:
        The runner; the loss of every logged step is in its ``log_dir/vis_data/scalars.json``.

    Raises:
        UserError: something that was given is missing or does not fit.
        StoppedError: SIGTERM, SIGUSR1 or Ctrl-C came; the checkpoint that it names was saved.
    """
    run = RunOptions(work_dir, data_root, cfg_options, launcher, device, tf32)
    chosen = TrainingOptions.of(**options)
    with quiet_terminal(), linked_processes(), stop_requests() as requests:
        return _train(prepare_training(config, run, chosen), StopHook(requests), chosen)
    raise AssertionError  # for type checkers: nothing is suppressed


def _train(cfg: Config, hook: StopHook, options: TrainingOptions) -> Runner:
    with contextlib.ExitStack() as stack:
        return _train_in_work_dir(cfg, hook, stack, options)
    raise AssertionError  # for type checkers: nothing is suppressed


def _train_in_work_dir(
    cfg: Config, hook: StopHook, stack: contextlib.ExitStack, options: TrainingOptions
) -> Runner:
    """Trains; what holds during the training is released with the stack."""
    init_distributed(cfg)
    _check_checkpoint(cfg)
    ensure_pretrained(cfg)
    overwrite = options.overwrite and not cfg.get("resume")  # it does in a job that was requeued
    waits = options.resume == "auto" and not cfg.get("resume")  # for a run to continue later
    with output_errors({"--work-dir": cfg.work_dir}):
        on_first_process(lambda: _prepare_work_dir(cfg, stack, overwrite, waits))
    taken = [cfg.work_dir]
    broadcast_object_list(taken)
    cfg.work_dir = taken[0]
    stack.enter_context(output_errors({"--work-dir": cfg.work_dir}, lambda: _how_to_go_on(cfg)))
    runner = build_runner(cfg)
    runner.register_hook(hook)
    if overwrite:
        runner.register_hook(OverwriteHook())
    _notify_start(runner)
    try:
        run_with_progress(runner, runner.train)
    except StoppedError as error:
        hook.end_run(runner, error)
        raise
    except KeyboardInterrupt:  # the second one: nothing was saved for it
        notify_user(_how_to_go_on(cfg) or "no checkpoint was saved yet")
        raise
    _notify_skipped(runner)
    _notify_results(runner)
    return runner


def _check_checkpoint(cfg: Config) -> None:
    """Raises a UserError if processes would not continue from the same checkpoint."""
    found = all_gather_object(cfg.get("load_from") if cfg.get("resume") else None)
    if len(set(found)) > 1:
        raise UserError(
            f"the processes see different checkpoints in {cfg.work_dir} ({found[0]} and "
            f"{next(one for one in found if one != found[0])}): it has to be on a file system "
            "that all nodes share"
        )


def _prepare_work_dir(
    cfg: Config, stack: contextlib.ExitStack, overwrite: bool, waits: bool
) -> None:
    """Checks the data and takes the work dir, into which no other training gets from here on."""
    for warning in check_data(cfg, splits=("train", "val")):
        notify_user(f"warning: {warning}")
    asked = cfg.work_dir
    is_first = waits and (named_checkpoint(asked) is not None or not holds_run(asked))
    if overwrite or is_first or _continues_in_work_dir(cfg):
        make_output_dir(asked, "--work-dir")
        stack.enter_context(lock_work_dir(asked))
        if is_first and (saved := named_checkpoint(asked)) is not None:
            raise UserError(f"another training has just saved {saved}: give the command again")
    else:
        cfg.work_dir = stack.enter_context(take_new_work_dir(asked))
    remove_parts(cfg.work_dir)
    if cfg.work_dir != asked:
        notify_user(
            f"{asked} has another run: this one goes to {cfg.work_dir} (--resume continues that "
            "one, --overwrite replaces it)"
        )


def _continues_in_work_dir(cfg: Config) -> bool:
    """Whether it is the run of its work dir that goes on, or may be restarted by its launcher."""
    if cfg.launcher == "pytorch" and continues_by_itself(cfg.launcher):
        return True
    if not cfg.get("resume"):
        return False
    is_named = cfg.load_from == named_checkpoint(cfg.work_dir)  # which may be anywhere
    return is_named or Path(cfg.load_from).parent.resolve() == Path(cfg.work_dir).resolve()


def _how_to_go_on(cfg: Config) -> str | None:
    checkpoint = named_checkpoint(cfg.work_dir)
    return checkpoint and f"{checkpoint} is saved: {how_to_resume(cfg.work_dir)}"


def _notify_start(runner: Runner) -> None:
    """Tells what is trained, on which device, and where the log is."""
    model = getattr(runner.model, "module", runner.model)
    parameters = list(model.parameters())
    millions = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    where = f"{parameters[0].device}"
    if get_world_size() > 1:
        how = ", sharded" if runner.cfg.get("fsdp") else ""
        where += f", {get_world_size()} processes{how}"
    what = f"{type(model).__name__} with {millions:.1f} M parameters"
    notify_user(f"training {what} in {precision_in_words(runner.cfg)} on {where}")
    notify_user(f"log: {runner.logger.log_file}")


def _notify_skipped(runner: Runner) -> None:
    """Lists the images that the processes skipped."""
    found = all_gather_object(skipped_files(runner.train_dataloader.dataset))
    files = sorted({file for files in found for file in files})
    if files:
        notify_user(f"warning: {len(files)} images were skipped, others took their places:")
    for file in files[:_SHOWN]:
        notify_user(f"  {file}")
    if len(files) > _SHOWN:
        notify_user(
            f"  and {len(files) - _SHOWN} others, see skipped_images.json of the log folder"
        )
    if files and runner.rank == 0:
        write_json(Path(runner.log_dir) / "skipped_images.json", files)


def _notify_results(runner: Runner) -> None:
    """Tells where the results are."""
    if runner.rank != 0:
        return
    folder = Path(named_checkpoint(runner.work_dir) or runner.work_dir).parent
    for words, name in (("checkpoint", "last.pth"), ("best checkpoint", "best.pth")):
        path = folder / name
        file = path.with_name(os.path.basename(os.path.realpath(path)))
        if path.exists():
            notify_user(f"{words}: {file}" + (f", also as {path}" if file != path else ""))
    if metrics_file(runner).is_file():
        notify_user(f"metrics: {metrics_file(runner)}")
    notify_user(f"log: {runner.logger.log_file}")
