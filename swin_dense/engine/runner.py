"""mmengine's runner with a quiet terminal, strict loading of checkpoints, and support for CPUs."""

import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.hooks import LoggerHook
from mmengine.logging import MMLogger
from mmengine.model import (
    BaseDataPreprocessor,
    MMDistributedDataParallel,
    convert_sync_batchnorm,
    is_model_wrapper,
    revert_sync_batchnorm,
)
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop
from mmengine.runner import LogProcessor as MMEngineLogProcessor
from mmengine.runner import Runner as MMEngineRunner
from mmengine.visualization import Visualizer
from torch import nn

from swin_dense.checkpoints import (
    LoadReport,
    convert_checkpoint,
    load_checkpoint,
    load_converted,
    no_conversion,
)
from swin_dense.compat.file_backend import folder_not_made_again
from swin_dense.datasets.reading import guard_reading
from swin_dense.engine.config.fit import tested_scale
from swin_dense.engine.config.pretrained import local_weights
from swin_dense.engine.launch import on_first_process
from swin_dense.engine.log import LogProcessor
from swin_dense.engine.loops import IterationLoop, exact_loop
from swin_dense.engine.precision import precision_of
from swin_dense.engine.resume_check import as_resume_error, check_resumable
from swin_dense.engine.resuming import (
    progress_in_words,
    restore_training,
    state_of_training,
)
from swin_dense.engine.schedule import fit_schedule, places_of
from swin_dense.engine.sharding import is_sharded, keep_state_whole, shard
from swin_dense.engine.terminal.console import notify_user, redirect_log
from swin_dense.engine.terminal.hooks import ProgressHook
from swin_dense.engine.weights import check_classes, check_scale, without_wrappers
from swin_dense.engine.work_dir import named_checkpoint, new_log_folder
from swin_dense.files import write_text

_LOGGED = 20  # losses of a training that counts iterations, at least


class Runner(MMEngineRunner):
    """mmengine's runner, which trains in the same way, but:

    - The log is written to its file; the terminal shows warnings only.
    - ``cfg.device`` ('cpu' or 'cuda') is obeyed, also on a machine with GPUs, and CPU processes
      train together (mmengine hands every model to a CUDA device in distributed runs).
    - A checkpoint is read safely, and one that does not fit the model is an error.
    - The visualizer belongs to this run (mmengine reuses the first one of the process).
    - ``env_cfg.tf32`` lets float32 matrices be multiplied in TF32. ``compile_backbone``, True or
      torch.compile's arguments, compiles the backbone. A GPU copies batches while it computes.
    - With ``fsdp`` the model is sharded among the processes, see :mod:`~.sharding`.
    - A checkpoint tells how it was trained, so that ``--resume`` continues exactly.
    - The log has the mean of the losses of all processes.
    - The schedule is fitted to the length of the training, see :mod:`~.schedule`, unless
      ``fit_schedule`` is False.
    """

    exact_weights = False
    """Whether a loaded checkpoint must hold every parameter of the model."""
    _builds_training = False
    fitted_schedule = ""
    """What of the config's schedule was changed for this training, in words."""

    def build_logger(self, *args: Any, **kwargs: Any) -> logging.Logger:
        """mmengine's logger, which shows only warnings on the terminal."""
        # Runs of one process that start in the same second, in several folders.
        while MMLogger.check_instance_created(self._experiment_name):
            self._experiment_name += "_"
        logger = super().build_logger(*args, **kwargs)
        redirect_log(logger)
        return logger

    def setup_env(self, env_cfg: dict) -> None:
        """mmengine's settings of the process, ``tf32``, and a log folder for this run alone."""
        super().setup_env(env_cfg)
        # Runs that start in the same second would share log and metrics.
        name = [new_log_folder(self.work_dir, self.timestamp) if get_rank() == 0 else ""]
        broadcast_object_list(name)
        self._timestamp: str = name[0]
        if env_cfg.get("tf32"):
            torch.backends.cuda.matmul.allow_tf32 = True

    def build_visualizer(self, visualizer: Any = None) -> Visualizer:
        """mmengine's, under the name of this run."""
        if isinstance(visualizer, dict):
            visualizer["name"] = self._experiment_name
        return super().build_visualizer(visualizer)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """mmengine's, which can be resumed exactly; its data set may skip images."""
        self._builds_training = True
        try:
            loop = super().build_train_loop(exact_loop(loop, self._train_dataloader))
        finally:
            self._builds_training = False
        for hook in self.hooks:  # a training shorter than the interval would log nothing
            if isinstance(hook, LoggerHook) and isinstance(loop, IterationLoop):
                hook.interval = min(hook.interval, max(loop.max_iters // _LOGGED, 1))
        return loop

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """mmengine's, of a schedule that fits the length of the training."""
        if self.cfg.get("fit_schedule", True):
            scheduler, self.fitted_schedule = fit_schedule(scheduler, self.train_loop)
        return super().build_param_scheduler(scheduler)

    def build_log_processor(self, log_processor: Any) -> MMEngineLogProcessor:
        """mmengine's, which knows of all processes."""
        is_config = isinstance(log_processor, dict)
        if is_config and log_processor.get("type", "LogProcessor") == "LogProcessor":
            log_processor = {**log_processor, "type": LogProcessor}
        return super().build_log_processor(log_processor)

    def build_dataloader(self, dataloader: Any, *args: Any, **settings: Any) -> Any:  # type: ignore[override]
        """mmengine's, whose errors name the file that cannot be read.

        With ``skip_bad_images``, a training takes other samples instead.
        """
        loader = super().build_dataloader(dataloader, *args, **settings)
        skips = self._builds_training and bool(self.cfg.get("skip_bad_images"))
        guard_reading(loader.dataset, skips)
        return loader

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Moves the model to the device and, in a distributed run, wraps it for that.

        Its backbone is compiled first, in place, which changes no name of a parameter.
        """
        if settings := self.cfg.get("compile_backbone"):
            arguments = settings if isinstance(settings, dict) else {}
            model.get_submodule("backbone").compile(**arguments)
        if self.cfg.get("device") == "cuda":
            copy_ahead(model)
        on_cpu, sharded = self.cfg.get("device") == "cpu", self.cfg.get("fsdp", False)
        if is_model_wrapper(model) or not (on_cpu or sharded):
            return super().wrap_model(model_wrapper_cfg, model)
        model = model.to(self.cfg.device)
        if on_cpu:
            model = revert_sync_batchnorm(model)  # torch's SyncBatchNorm is for GPUs only
        elif kind := self.cfg.get("sync_bn"):
            model = convert_sync_batchnorm(model, kind)
        if sharded or not self.distributed:
            return model
        settings = {
            "broadcast_buffers": False,
            "find_unused_parameters": self.cfg.get("find_unused_parameters", False),
            **(model_wrapper_cfg or {}),
        }
        settings.pop("type", None)
        return MMDistributedDataParallel(module=model, **settings)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """mmengine's; if ``cfg.fsdp`` is True, of the model after it was initialised and sharded.

        The latter needs whole weights, the optimizer those that are sharded.
        """
        shards = self.cfg.get("fsdp", False) and not is_sharded(self.model)
        if shards:
            super()._init_model_weights()
            shard(self.model)
        optim_wrapper = super().build_optim_wrapper(optim_wrapper)
        if shards:
            keep_state_whole(optim_wrapper.optimizer)
        return optim_wrapper

    def _init_model_weights(self) -> None:
        if not is_sharded(self.model):
            super()._init_model_weights()

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",
        strict: bool = False,
        revise_keys: list = [(r"^module\.", "")],  # noqa: B006 (mmengine's signature)
    ) -> dict:
        """Loads weights, safely, and reports how well they fit.

        Raises:
            UserError: the file is no checkpoint, or is one of another model, or of the same classes
                in another order.
        """
        checkpoint = load_checkpoint(local_weights(filename, otherwise=""), map_location="cpu")
        model = without_wrappers(self.model)
        report = LoadReport(filename)
        if self._resume or self.exact_weights:
            check_classes(self.cfg, checkpoint, filename)
            check_scale(self.cfg, checkpoint, filename)
        if self._resume:
            check_resumable(self, checkpoint, filename)
        else:
            checkpoint, report = convert_checkpoint(model, checkpoint, filename, revise_keys)
        with no_conversion():  # hooks may load the weights too, as EMAHook does
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_converted(model, checkpoint, report, self._resume or strict or self.exact_weights)
        if self._resume:
            notify_user(f"continuing from {filename}: {progress_in_words(self, checkpoint)}")
            restore_training(self, checkpoint, filename)
        else:
            notify_user(str(report))
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    def resume(self, filename: str, *args: Any, **settings: Any) -> None:
        """Continues the training that saved a checkpoint.

        Raises:
            UserError: it was not saved by a training, or by another one.
        """
        fitted = places_of(self.param_schedulers)
        with as_resume_error(filename):
            super().resume(filename, *args, **settings)
        if places_of(self.param_schedulers) != fitted:
            self.fitted_schedule = "as the checkpoint has it, which was to be of another length"

    def save_checkpoint(self, *args: Any, meta: dict | None = None, **settings: Any) -> None:
        """mmengine's, with the state of the training and its precision in ``meta``.

        All processes have to call it.

        Raises:
            UserError: a hook refuses it, as :mod:`.finite_loss` does.
        """
        epoch = (meta or {}).get("epoch", self.epoch + settings.get("by_epoch", True))
        state = state_of_training(self, epoch)
        if is_sharded(self.model) and get_rank():  # hand over what the first process writes
            self.model.state_dict()
            if settings.get("save_optimizer", True):
                self.optim_wrapper.state_dict()
        meta = {**(meta or {}), **state, "precision": precision_of(self.cfg)}
        meta["test_scale"] = tested_scale(self.cfg)
        write = super().save_checkpoint

        def save() -> None:
            with folder_not_made_again(self.work_dir):
                write(*args, meta=meta, **settings)

        on_first_process(save)

    def dump_config(self) -> None:
        """Writes the config beside this run's log, and into the work dir when a training starts.

        The config of a training that has saved checkpoints there stays.
        """
        if get_rank() != 0:
            return
        name = os.path.basename(self.cfg.filename or "config.py")
        write_text(os.path.join(self.log_dir, name), self.cfg.dump())
        if self._train_loop is not None and named_checkpoint(self.work_dir) is None:
            write_text(os.path.join(self.work_dir, name), self.cfg.dump())


def copy_ahead(model: nn.Module) -> None:
    """Lets a batch be copied to the GPU while that still computes the step before.

    ``non_blocking`` of mmengine's data preprocessors does so; mmseg's has no argument for it.
    """
    for part in model.modules():
        if isinstance(part, BaseDataPreprocessor):
            part._non_blocking = True


def build_runner(cfg: Config) -> MMEngineRunner:
    """Our runner, or the one that the config's ``runner_type`` names."""
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)


def run_with_progress(runner: MMEngineRunner, run: Callable[[], Any]) -> Any:
    """Calls ``run``, and closes the progress bar if that fails, so that errors can be read."""
    try:
        return run()
    finally:
        for hook in runner.hooks:
            if isinstance(hook, ProgressHook):
                hook.close()
