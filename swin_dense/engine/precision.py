"""Precision of a training: of a config, of a checkpoint, and the optimizer wrapper for bfloat16."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from swin_dense.checkpoints.files import load_without_weights
from swin_dense.registry import OPTIM_WRAPPERS

PRECISIONS = ("fp32", "fp16", "bf16")
BF16_WRAPPER = "swin_dense.Bf16OptimWrapper"
FP16_WRAPPER = "AmpOptimWrapper"
_OF_DTYPE = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """mmengine's wrapper, with forward under autocast in bfloat16, on GPUs and CPUs.

    bfloat16 has the range of float32: no gradient underflows, so that losses are not scaled.
    (mmengine's ``AmpOptimWrapper`` always has a scaler, and refuses to work without a GPU.) The
    state of a scaler in a checkpoint is not used.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast for the forward pass of ``model``."""
        device = self.optimizer.param_groups[0]["params"][0].device
        with super().optim_context(model), torch.autocast(device.type, torch.bfloat16):
            yield


def needs_gpu(cfg: Config) -> bool:
    """Whether the config asks for mmengine's wrapper for mixed precision, which has a scaler."""
    return _wrapper_name(cfg) == FP16_WRAPPER


def precision_of(cfg: Config) -> str:
    """'fp32', 'fp16' or 'bf16': what the config's ``optim_wrapper`` trains in."""
    if needs_gpu(cfg):
        dtype = str(cfg.optim_wrapper.get("dtype") or "float16").removeprefix("torch.")
        return _OF_DTYPE.get(dtype, "fp32")
    return "bf16" if _wrapper_name(cfg) == Bf16OptimWrapper.__name__ else "fp32"


def precision_in_words(cfg: Config) -> str:
    """What the config trains in, for the user."""
    if (precision := precision_of(cfg)) == "fp32":
        return "float32"
    return f"{precision} (autocast, {'with' if needs_gpu(cfg) else 'without'} loss scaling)"


def _wrapper_name(cfg: Config) -> str:
    kind = cfg.optim_wrapper.get("type")
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]


def trained_precision(checkpoint: str | Path) -> str | None:
    """What the training that wrote a checkpoint computed in; None if it does not tell.

    Only the file's small entries are read. Trainings by other tools tell of fp16 only, by the state
    of its loss scaler. A file that cannot be read is left for the error of those that load it.
    """
    try:
        content = load_without_weights(checkpoint)
    except Exception:  # almost any, for arbitrary bytes
        return None
    if not isinstance(content, Mapping):
        return None
    meta, optimizer = (
        part if isinstance(part, Mapping) else {}
        for part in (content.get(name) for name in ("meta", "optimizer"))
    )
    known: Any = meta.get("precision")
    if isinstance(known, str) and known in PRECISIONS:
        return known
    return "fp16" if "loss_scaler" in optimizer else None
