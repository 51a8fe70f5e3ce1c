"""mmengine's runner, made quiet, careful about checkpoints and at home on CPUs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.model import MMDistributedDataParallel, is_model_wrapper, revert_sync_batchnorm
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
from swin_dense.engine.config.pretrained import local_weights
from swin_dense.engine.terminal.console import redirect_log, say
from swin_dense.engine.weights import without_wrappers


class Runner(MMEngineRunner):
    """Differs from mmengine's in what surrounds the training, never in the training itself.

    - The log goes to its file; the terminal gets warnings only.
    - ``cfg.device`` ('cpu' or 'cuda') is obeyed, also on a machine with GPUs, and CPU processes
      train together (mmengine hands every model to a CUDA device in distributed runs).
    - A checkpoint is read safely, and one that does not fit the model is an error.
    - The visualizer belongs to this run (mmengine reuses the first one of the process).
    """

    exact_weights = False
    """Whether a loaded checkpoint must hold every parameter of the model."""

    def build_logger(self, *args: Any, **kwargs: Any) -> logging.Logger:
        """mmengine's logger, its console handler replaced by one for warnings."""
        logger = super().build_logger(*args, **kwargs)
        redirect_log(logger)
        return logger

    def build_visualizer(self, visualizer: Any = None) -> Visualizer:
        """mmengine's, under the name of this run."""
        if isinstance(visualizer, dict):
            visualizer["name"] = self._experiment_name
        return super().build_visualizer(visualizer)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Moves the model to the device and, in a distributed run, wraps it for that."""
        if self.cfg.get("device") != "cpu" or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        model = revert_sync_batchnorm(model.to("cpu"))  # torch's SyncBatchNorm is for GPUs only
        if not self.distributed:
            return model
        settings = dict(model_wrapper_cfg or {})
        settings.pop("type", None)
        settings.setdefault("broadcast_buffers", False)
        settings.setdefault("find_unused_parameters", self.cfg.get("find_unused_parameters", False))
        return MMDistributedDataParallel(module=model, **settings)

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",
        strict: bool = False,
        revise_keys: list = [(r"^module\.", "")],  # noqa: B006 (mmengine's signature)
    ) -> dict:
        """Loads weights, safely, and says how well they fit.

        Raises:
            UserError: the file is no checkpoint, or is one of another model.
        """
        checkpoint = load_checkpoint(local_weights(filename, otherwise=""), map_location="cpu")
        model = without_wrappers(self.model)
        report = LoadReport(filename)
        if not self._resume:
            checkpoint, report = convert_checkpoint(model, checkpoint, filename, revise_keys)
        with no_conversion():  # hooks may load the weights too, as EMAHook does
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_converted(model, checkpoint, report, self._resume or strict or self.exact_weights)
        if not self._resume:
            say(str(report))
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    def dump_config(self) -> None:
        """Writes the config beside this run's log, and into the work dir when it trains anew.

        So a test, or a resumed run, never replaces the config that a training was started with.
        """
        if get_rank() != 0:
            return
        name = os.path.basename(self.cfg.filename or "config.py")
        self.cfg.dump(os.path.join(self.log_dir, name))
        if self._train_loop is not None and not self._resume:
            self.cfg.dump(os.path.join(self.work_dir, name))

    @property
    def log_file(self) -> Path:
        """The complete log of this run."""
        return Path(self.log_dir) / f"{self.timestamp}.log"


def warn_of_earlier_run(work_dir: str, resume: bool) -> None:
    """Says so when checkpoints of an earlier run are about to be replaced."""
    if not resume and (Path(work_dir) / "last_checkpoint").is_file():
        say(
            f"{work_dir} holds checkpoints of an earlier run, which this one will replace: "
            "--resume continues it, --work-dir keeps it apart"
        )


def parameter_count(model: nn.Module) -> int:
    """The number of weights that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def device_of(model: nn.Module) -> torch.device:
    """Where the model is."""
    return next(model.parameters()).device
