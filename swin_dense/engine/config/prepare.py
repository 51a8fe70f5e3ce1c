"""All that the command line and the hardware change in a config, and in which order."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from swin_dense.config_tree import main_metric
from swin_dense.engine.config.data_root import set_data_root
from swin_dense.engine.config.fine_tuning import start_from
from swin_dense.engine.config.fit import FitOptions, fit_config
from swin_dense.engine.config.hardware import (
    accumulate_gradients,
    adapt_workers,
    allow_tf32,
    scale_learning_rate,
    set_precision,
    use_gpu,
)
from swin_dense.engine.config.load import merge_options, read_config
from swin_dense.engine.config.own_data import apply_own_data
from swin_dense.engine.config.pretrained import drop_pretrained, pretrained_files
from swin_dense.engine.config.tta import use_tta
from swin_dense.engine.config.values import check_values
from swin_dense.engine.launch import (
    adopt_process,
    choose_device,
    continues_by_itself,
    find_launcher,
)
from swin_dense.engine.paths import check_checkpoint_path, checkpoint_file
from swin_dense.engine.resuming import trained_seed
from swin_dense.engine.sharding import use_sharding
from swin_dense.engine.terminal.console import notify_user
from swin_dense.engine.work_dir import (
    find_checkpoint,
    folder_of_this_job,
    is_of_run,
    named_checkpoint,
    newest_run,
)
from swin_dense.errors import UserError
from swin_dense.ops.torch_versions import too_old

_FOR_TRAINING = ("model", "train_dataloader", "train_cfg", "optim_wrapper")
_FOR_TEST = ("model", "test_dataloader", "test_cfg", "test_evaluator")
# What only training needs: in a test, mmengine would build it.
_NOT_FOR_TEST = ["train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"]
_NOT_FOR_TEST += ["val_dataloader", "val_cfg", "val_evaluator"]


@dataclass(frozen=True)
class RunOptions:
    """The options that training and testing share; None leaves it to the config."""

    work_dir: str | Path | None = None
    data_root: str | Path | None = None
    cfg_options: Mapping[str, Any] | None = None
    launcher: str = "none"
    device: str = "auto"
    tf32: bool = False


@dataclass(frozen=True)
class TrainingOptions:
    """The options of a training alone.

    Attributes:
        from_scratch: train without pretrained weights.
        amp: 'bf16'; 'fp16' with a dynamic loss scale; 'auto' for bf16 where the device has it, else
            fp16; 'fp32'. None is that of the resumed checkpoint, else the config's.
        compile: compile the backbone with torch.compile.
        auto_scale_lr: scale the learning rate to the batch size.
        resume: None; 'auto' for the latest checkpoint of the work dir, without ``work_dir`` of all
            runs of the config, if there is one, which a run that the launcher restarts takes in any
            case; or a checkpoint file.
        seed: of the random number generators; None is the config's, else a random one.
        strategy: 'ddp', or 'fsdp' to share parameters and optimizer states among the processes.
        accumulate: batches for each step of the optimizer; None is the config's, else 1.
        skip_bad_images: replace images that cannot be read by others, and list them at the end.
        save_every: save a checkpoint after each so many iterations too.
        overwrite: replace what another run left in the work dir, when this one begins to train.
        weights: start from a whole model: 'coco' or 'ade20k', a name, a file or a URL.
        report: write ``report.html`` at the end, see :mod:`swin_dense.reports`.
        fit: what fits the run to the data, in place of the config.

    Raises:
        UserError: ``weights`` and ``from_scratch`` exclude each other.
    """

    from_scratch: bool = False
    amp: str | None = None
    compile: bool = False
    auto_scale_lr: bool = False
    resume: str | None = None
    seed: int | None = None
    strategy: str = "ddp"
    accumulate: int | None = None
    skip_bad_images: bool = False
    save_every: int | None = None
    overwrite: bool = False
    weights: str | None = None
    report: bool = True
    fit: FitOptions = field(default_factory=FitOptions)

    def __post_init__(self) -> None:
        if self.weights is not None and self.from_scratch:
            raise UserError("--weights and --from-scratch exclude each other: give one of them")

    @classmethod
    def of(cls, **options: Any) -> "TrainingOptions":
        """From one set of keyword arguments, with those of :class:`~.fit.FitOptions` among them.

        As earlier, ``amp`` may also be True, which is 'auto', or False.
        """
        if isinstance(options.get("amp"), bool):
            options["amp"] = "auto" if options["amp"] else None
        fit = {one.name: options.pop(one.name) for one in fields(FitOptions) if one.name in options}
        return cls(**options, fit=FitOptions(**fit))


_BY_CONFIG = TrainingOptions()


def load_config(
    path: str | Path,
    cfg_options: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    from_scratch: bool = False,
    work_dir: str | Path | None = None,
    classes: Sequence[str] | None = None,
    tell: Callable[[str], object] = notify_user,
    masks: bool | None = None,
) -> Config:
    """Reads a config file and applies the options that most tools have.

    The steps, each of which may override those before it:

    1. The file, with what it inherits.
    2. ``cfg_options``: dotted keys and their new values; what cannot be meant is refused.
    3. ``data_root``, also of ``own_data``.
    4. ``own_data`` becomes data sets, evaluators and numbers of classes; with ``classes``, its
       training annotations need not be read. What is recognised and put right goes to ``tell``.
    5. ``from_scratch``: no pretrained weights, also none that ``cfg_options`` ask for.
    6. ``work_dir``, else the config's, else ``work_dirs/<config name>``.

    Raises:
        UserError: no such config, a config that Python cannot run, options that do not fit it,
            no such data root.
    """
    cfg = read_config(path)
    if cfg_options:
        merge_options(cfg, cfg_options)
    check_values(cfg._cfg_dict)
    if data_root is not None:
        set_data_root(cfg, data_root)
    apply_own_data(cfg, classes, tell, masks)
    if from_scratch:
        drop_pretrained(cfg)
    cfg.work_dir = str(work_dir or cfg.get("work_dir") or Path("work_dirs") / Path(path).stem)
    return cfg


def prepare_training(
    path: str | Path, run: RunOptions, options: TrainingOptions = _BY_CONFIG
) -> Config:
    """The config of a training.

    The steps, each of which may override those before it:

    1. :func:`load_config`, and what ``fit`` edits (:class:`~.fit.FitOptions`).
    2. ``weights``, in place of the config's; ``launcher`` and ``device``; a GPU becomes the current
       one.
    3. ``resume``: a checkpoint, searched for in the work dir, replaces pretrained weights, if there
       is one; also without it, if the launcher restarts processes. The work dir is that of the
       checkpoint, and of several runs that of the latest, unless one was asked for.
    4. ``amp``, else the checkpoint's precision; float32 where the device lacks what it or the
       config asks for.
    5. ``tf32``; and what is faster on a GPU, where the config does not say otherwise.
    6. ``compile``; ``accumulate``; ``auto_scale_lr``.
    7. The resumed checkpoint's seed, else ``seed``.
    8. ``strategy``; ``skip_bad_images``.
    9. Our hook saves checkpoints, where the config has mmengine's, also the best one by AP or
        mIoU, unless the config has another ``save_best``; ``save_every``.
    10. Data loaders without workers; hooks that show what is trained, progress and metrics on the
        terminal, one that ends a training whose loss is not finite and, with ``report``, one that
        writes a report.

    Raises:
        UserError: the config cannot be read or trained, or an option does not fit it.
    """
    scratch = options.from_scratch
    cfg = load_config(path, run.cfg_options, run.data_root, scratch, run.work_dir)
    _require(cfg, path, _FOR_TRAINING, "trained")
    fit_config(cfg, options.fit)
    if options.weights is not None:
        start_from(cfg, options.weights)
    device = _set_device(cfg, run)
    _set_resume(cfg, options.resume, run.work_dir or (run.cfg_options or {}).get("work_dir"))
    _check_overwrite(cfg, options)
    set_precision(cfg, device, options.amp)
    if run.tf32:
        allow_tf32(cfg, device)
    use_gpu(cfg, device)
    if options.compile:
        _compile_backbone(cfg, path)
    if options.accumulate is not None:
        accumulate_gradients(cfg, options.accumulate)
    if options.auto_scale_lr:
        scale_learning_rate(cfg, str(path))
    _set_seed(cfg, options.seed)
    if options.strategy == "fsdp":
        use_sharding(cfg)
    cfg.skip_bad_images = options.skip_bad_images or cfg.get("skip_bad_images", False)
    _use_checkpoint_hook(cfg, path, options.save_every)
    adapt_workers(cfg)
    _add_hooks(cfg, "FiniteLossHook", "SummaryHook", "MetricsHook", "ProgressHook")
    if options.report:
        _add_hooks(cfg, "ReportHook")
    return cfg


def prepare_test(
    path: str | Path,
    checkpoint: str | Path,
    run: RunOptions,
    tta: bool = False,
) -> Config:
    """The config of a test of ``checkpoint``: a file, a URL, or a work dir for its best one.

    The steps, each of which may override those before it:

    1. :func:`load_config`.
    2. ``launcher`` and ``device``; a GPU becomes the current one.
    3. The checkpoint replaces pretrained weights; what only training needs is dropped.
    4. ``tf32``; and what is faster on a GPU, where the config does not say otherwise.
    5. ``tta`` wraps the model and changes the test pipeline.
    6. Data loaders without workers; hooks that show progress and metrics on the terminal.

    Raises:
        UserError: there is no such checkpoint, the config cannot be read or tested, or an option
            does not fit it.
    """
    checkpoint = checkpoint_file(checkpoint)
    cfg = load_config(path, run.cfg_options, run.data_root, work_dir=run.work_dir)
    _require(cfg, path, _FOR_TEST, "tested")
    device = _set_device(cfg, run)
    drop_pretrained(cfg)
    cfg.resume, cfg.load_from = False, str(checkpoint)
    for key in _NOT_FOR_TEST:
        cfg[key] = None
    if run.tf32:
        allow_tf32(cfg, device)
    use_gpu(cfg, device)
    if tta:
        use_tta(cfg)
    adapt_workers(cfg)
    _add_hooks(cfg, "MetricsHook", "ProgressHook")
    return cfg


def prepare_prediction(
    path: str | Path,
    cfg_options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    masks: bool | None = None,
) -> Config:
    """The config of a model that gets weights of its own and predicts on images in memory.

    With the ``classes`` of these weights, and whether they have ``masks``, the data of ``own_data``
    need not be there.

    The steps: :func:`load_config`; pretrained weights are dropped; the model gets the config's
    ``data_preprocessor``, as mmengine's runner would give it. Errors are those of a test.
    """
    # What own_data makes of annotations is of no use here.
    cfg = load_config(path, cfg_options, classes=classes, tell=lambda line: None, masks=masks)
    _require(cfg, path, ("model",), "used to predict")
    drop_pretrained(cfg)
    if cfg.get("data_preprocessor") is not None:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    return cfg


def _require(cfg: Config, path: str | Path, keys: Sequence[str], purpose: str) -> None:
    if missing := [key for key in keys if not cfg.get(key)]:
        raise UserError(f"{path} cannot be {purpose}: it has no {', '.join(missing)}")


def _set_device(cfg: Config, run: RunOptions) -> torch.device:
    launcher = find_launcher(run.launcher)
    adopt_process(launcher)
    device = choose_device(run.device, launcher)
    cfg.launcher, cfg.device = launcher, device.type
    return device


def _set_resume(cfg: Config, resume: str | None, work_dir: Any) -> None:
    """Sets what the runner resumes from, for ``--resume``, the config's ``resume`` or a restart."""
    restarts = _find_restarted(cfg)
    named = resume if resume != "auto" else None
    if resume is None and cfg.get("resume"):
        named = cfg.get("load_from")
    elif resume is None and not restarts:
        return
    if not work_dir and not restarts:
        cfg.work_dir = _folder_to_resume(cfg, named)
    latest = find_checkpoint(cfg.work_dir) if named is None or restarts else None
    if latest is not None and restarts:
        notify_user(f"continuing {cfg.work_dir}, as the launcher may restart processes")
    elif latest is None and named is None:
        if resume is not None or cfg.get("resume"):
            notify_user(f"nothing to resume: {cfg.work_dir} has no checkpoint; starting anew")
        cfg.resume = False
        return
    checkpoint = latest or str(named)
    check_checkpoint_path(checkpoint)
    drop_pretrained(cfg)
    cfg.resume, cfg.load_from = True, checkpoint


def _check_overwrite(cfg: Config, options: TrainingOptions) -> None:
    """Raises a UserError if what a training needs would be removed with what was there before."""
    if not options.overwrite:
        return
    restarts = continues_by_itself(cfg.launcher)
    if restarts and cfg.launcher == "slurm" and cfg.get("resume"):
        return  # the run that it continues has done so
    if restarts and cfg.launcher == "pytorch":
        raise UserError(
            "--overwrite: a training that torchrun restarts would remove its own checkpoints: "
            f"remove {cfg.work_dir} yourself"
        )
    if options.resume is not None or cfg.get("resume"):
        raise UserError("--overwrite and --resume exclude each other: give one of them")
    for file in pretrained_files(cfg):
        if is_of_run(file, cfg.work_dir):
            raise UserError(f"--overwrite would remove {file}, from which this run starts: move it")


def _find_restarted(cfg: Config) -> bool:
    """Whether a launcher may have restarted this run; its work dir is then the one it had."""
    if not continues_by_itself(cfg.launcher):
        return False
    if cfg.launcher == "slurm":  # knows which processes it has started again
        folder = folder_of_this_job(cfg.work_dir)
        cfg.work_dir = folder or cfg.work_dir
        return folder is not None
    return True


def _folder_to_resume(cfg: Config, checkpoint: str | None) -> str:
    """The work dir of a training that is resumed, if none was asked for."""
    if checkpoint is None:
        return newest_run(cfg.work_dir, os.path.basename(cfg.filename))
    folder = Path(checkpoint).parent
    is_work_dir = "://" not in checkpoint and named_checkpoint(folder) is not None
    return str(folder) if is_work_dir else cfg.work_dir


def _set_seed(cfg: Config, seed: int | None) -> None:
    trained = trained_seed(cfg.load_from) if cfg.get("resume") else None
    if trained is not None and seed not in (None, trained):
        notify_user(f"continuing with seed {trained}, that of the checkpoint, not with {seed}")
    seed = trained if trained is not None else seed
    if seed is not None:
        cfg.randomness = {**(cfg.get("randomness") or {}), "seed": seed}


def _compile_backbone(cfg: Config, path: str | Path) -> None:
    if reason := too_old(2, 6):
        raise UserError(f"--compile {reason}: remove it")
    if not cfg.model.get("backbone"):
        raise UserError(f"--compile: the model of {path} has no backbone to compile: remove it")
    cfg.compile_backbone = cfg.get("compile_backbone") or True


def _use_checkpoint_hook(cfg: Config, path: str | Path, save_every: int | None) -> None:
    """Replaces mmengine's hook by :class:`swin_dense.engine.CheckpointHook`."""
    if cfg.get("default_hooks") is None:
        cfg.default_hooks = {}
    hook = cfg.default_hooks.setdefault("checkpoint", {"type": "CheckpointHook", "interval": 1})
    kind = (hook or {}).get("type")
    name = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
    if name == "CheckpointHook":
        hook["type"] = "swin_dense.CheckpointHook"
        if "save_best" not in hook and (metric := main_metric(cfg)):
            hook["save_best"] = metric
    if save_every is None:
        return
    if save_every < 1:
        raise UserError(f"--save-every {save_every}: give a number of iterations, 1 or more")
    if name != "CheckpointHook":
        raise UserError(f"--save-every: {path} has no CheckpointHook in default_hooks")
    hook["save_every"] = save_every


def _add_hooks(cfg: Config, *names: str) -> None:
    """Adds hooks of ours, unless the config has its own of that name."""
    hooks = list(cfg.get("custom_hooks") or [])
    present = {str(hook.get("type")).rpartition(".")[2] for hook in hooks}
    cfg.custom_hooks = hooks + [{"type": f"swin_dense.{n}"} for n in names if n not in present]
