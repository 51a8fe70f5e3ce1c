"""What ``--resume`` needs of a checkpoint, checked before anything of it is used.

mmengine copies the states into its objects as they are: what does not fit them fails later, or, as
an epoch beyond the last, trains nothing.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner
from torch import Tensor

from swin_dense.checkpoints.contents import is_finite
from swin_dense.errors import UserError

_PARTS = ("meta", "state_dict", "message_hub", "optimizer")
_OF_HUB = ("log_scalars", "runtime_info", "resumed_keys")
_OTHER = "; to start a new training from its weights: --cfg-options load_from={file}"
# States of optimizers that have one number for each of the parameter.
_LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")
_SETTINGS = ("lr", "betas", "eps", "weight_decay", "momentum")
_NUMBERS = (int, float, np.number, np.bool_, Tensor)


class _DoesNotFitError(ValueError):
    """Why a checkpoint cannot be resumed."""


def check_resumable(runner: MMEngineRunner, checkpoint: dict[str, Any], file: str) -> None:
    """Requires all that continues a training, and drops what names files outside its work dir.

    Raises:
        UserError: something is missing, or does not fit the runner's training.
    """
    try:
        _check_parts(checkpoint)
        _check_progress(runner, checkpoint["meta"])
        if isinstance(runner.optim_wrapper, OptimWrapper):
            _check_optimizer(runner.optim_wrapper.optimizer, checkpoint["optimizer"])
        if isinstance(runner.param_schedulers, list):
            _check_schedulers(runner.param_schedulers, checkpoint.get("param_schedulers"))
    except _DoesNotFitError as error:
        raise UserError(f"{file} cannot be resumed: {error}{_OTHER.format(file=file)}") from error
    hub = checkpoint["message_hub"]
    hub["resumed_keys"] = {key: True for key, on in hub["resumed_keys"].items() if on is True}
    _keep_to_work_dir(hub["runtime_info"], Path(runner.work_dir))


@contextmanager
def as_resume_error(file: str) -> Iterator[None]:
    """Makes one line of what else in a file does not fit the runner that resumes from it."""
    try:
        yield
    except (UserError, torch.cuda.OutOfMemoryError):
        raise
    except (ArithmeticError, AssertionError, LookupError) as error:
        raise _as_user_error(file, error) from error
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise _as_user_error(file, error) from error


def _as_user_error(file: str, error: Exception) -> UserError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return UserError(f"{file} cannot be resumed: {reason}{_OTHER.format(file=file)}")


def _check_parts(checkpoint: Mapping[str, Any]) -> None:
    if missing := [part for part in _PARTS if not isinstance(checkpoint.get(part), Mapping)]:
        raise _DoesNotFitError(f"it has no {', '.join(missing)}, as those of a training have")
    for name, value in checkpoint["state_dict"].items():
        if not isinstance(value, Tensor) and not str(name).endswith("_extra_state"):
            raise _DoesNotFitError(f"{name} in its state_dict is no tensor")
    for part in _OF_HUB:
        if not isinstance(checkpoint["message_hub"].get(part), Mapping):
            raise _DoesNotFitError(f"its message_hub has no {part}")


def _check_progress(runner: MMEngineRunner, meta: dict[str, Any]) -> None:
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    limits = {"epoch": runner.max_epochs, "iter": runner.max_iters}
    for name, limit in limits.items():
        value = meta.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise _DoesNotFitError(f"it was saved at {name} {value}")
        meta[name] = int(value)
        if value > limit and by_epoch == (name == "epoch"):
            raise _DoesNotFitError(
                f"it was saved at {name} {value} of {limit}: raise --epochs, or "
                f"train_cfg.max_{name}s"
            )
    seed = meta.get("seed")
    if seed is not None and not isinstance(seed, (int, np.integer)):
        raise _DoesNotFitError(f"its seed is {seed!r:.40}")


def _check_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    own, groups, of_parameters = (
        optimizer.param_groups,
        state.get("param_groups"),
        state.get("state"),
    )
    if not isinstance(groups, list) or not isinstance(of_parameters, Mapping):
        raise _DoesNotFitError("its optimizer has no param_groups and state")
    sizes = [len(g["params"]) if _is_group(g) else -1 for g in groups]
    if sizes != [len(group["params"]) for group in own]:
        raise _DoesNotFitError("its optimizer is of other groups of parameters")
    parameters = [p for group in own for p in group["params"]]
    indices = [i for group in groups for i in group["params"]]
    if any(type(i) is not int for i in indices) or len(set(indices)) < len(indices):
        raise _DoesNotFitError("its optimizer numbers no parameters")
    for group, like in zip(groups, own, strict=True):
        # Later versions of PyTorch have more settings, but no more of these.
        needed = {key for key in like if key in _SETTINGS}
        if missing := sorted(needed - group.keys()):
            raise _DoesNotFitError(f"its optimizer has no {', '.join(missing)}")
        for key in like.keys() & group.keys() - {"params"}:
            _check_like(group[key], like[key], f"optimizer's {key}")
        if group.get("amsgrad") != like.get("amsgrad"):  # it decides what the state has
            raise _DoesNotFitError(f"its optimizer's amsgrad is {group.get('amsgrad')}")
        if not 0 <= group["lr"] < math.inf:
            raise _DoesNotFitError(f"its optimizer's lr is {group['lr']}")
    names: set[Any] = set().union(*(e for e in of_parameters.values() if isinstance(e, Mapping)))
    for index, parameter in zip(indices, parameters, strict=True):
        entries = of_parameters.get(index, {})
        if not isinstance(entries, Mapping):
            raise _DoesNotFitError(f"its optimizer's state of parameter {index} is no dict")
        if entries and (absent := names - entries.keys()):
            raise _DoesNotFitError(f"its optimizer has no {absent.pop()} of parameter {index}")
        for name, value in entries.items():
            what = f"its optimizer's {name} of parameter {index}"
            if name in _LIKE_PARAMETER and getattr(value, "shape", None) != parameter.shape:
                raise _DoesNotFitError(
                    f"{what} is not of the size of that, {tuple(parameter.shape)}"
                )
            if isinstance(value, Tensor) and not is_finite(value, infinity=True):
                raise _DoesNotFitError(f"{what} is not a number")


def _is_group(group: Any) -> bool:
    return isinstance(group, Mapping) and isinstance(group.get("params"), list)


def _check_schedulers(schedulers: list[Any], states: Any) -> None:
    if not isinstance(states, list) or len(states) != len(schedulers):
        count = len(states) if isinstance(states, list) else "no"
        raise _DoesNotFitError(f"it has {count} param_schedulers, the config {len(schedulers)}")
    for i, (scheduler, state) in enumerate(zip(schedulers, states, strict=True)):
        own = scheduler.state_dict()
        if not isinstance(state, dict) or not state.keys() <= own.keys():
            raise _DoesNotFitError(f"its param_schedulers[{i}] is no {type(scheduler).__name__}")
        for key, value in list(state.items()):
            _check_like(value, own[key], f"param_schedulers[{i}].{key}")
            if callable(own[key]):  # it has its own
                del state[key]
        if state.get("_global_step", 0) < 0 or state.get("last_step", 0) < -1:
            raise _DoesNotFitError(f"its param_schedulers[{i}] is before the first step")


def _check_like(value: Any, like: Any, what: str) -> None:
    """Requires a value of the same kind as another: a number, a list of as many, a text, ..."""
    if isinstance(value, (list, tuple)) and isinstance(like, (list, tuple)):
        if len(value) != len(like):
            raise _DoesNotFitError(f"its {what} has {len(value)} values, not {len(like)}")
        for one, other in zip(value, like, strict=True):
            _check_like(one, other, what)
        return
    if isinstance(like, _NUMBERS):
        fits = isinstance(value, _NUMBERS) and not math.isnan(value)
    elif isinstance(like, (str, Mapping, list, tuple)):
        fits = isinstance(value, str if isinstance(like, str) else (Mapping, list, tuple))
    else:  # None, which may be anything; functions
        fits = True
    if not fits:
        raise _DoesNotFitError(f"its {what} is {value!r:.40}")


def _keep_to_work_dir(info: dict[str, Any], work_dir: Path) -> None:
    """Drops names of checkpoints that are elsewhere: mmengine removes them when they are old."""
    for key in [key for key in info if str(key).startswith(("best_ckpt", "last_ckpt"))]:
        inside = work_dir / os.path.basename(str(info[key]))
        if inside.is_file():
            info[key] = str(inside)
        else:
            del info[key]
    for key in [key for key in info if str(key).startswith("best_score")]:
        if isinstance(info[key], bool) or not isinstance(info[key], (int, float, np.number)):
            del info[key]
    steps = info.get("keep_ckpt_ids", [])
    if not isinstance(steps, list) or not all(type(step) is int for step in steps):
        del info["keep_ckpt_ids"]
