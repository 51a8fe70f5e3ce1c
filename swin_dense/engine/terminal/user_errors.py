"""Errors of other libraries that mean a mistake of the user."""

import re
import traceback
from typing import Any

import torch

from swin_dense.compat.forks import missing_package
from swin_dense.engine.paths import OF_DISKS
from swin_dense.errors import UserError

_EXCEPTION_NAME = re.compile(r"^[\w.]+: ")
# Characters of another library's message, and of the config: either may be very long.
_LONGEST_MESSAGE, _LONGEST_VALUE = 300, 200
# Where a config becomes objects: what goes wrong there is a matter of its values.
_REGISTRY, _RUNNER = "mmengine.registry.build_functions", "mmengine.runner.runner"
_OF_RUNNER = re.compile(r"_?(?:build|register|set|scale|check)_(\w+)|from_cfg|__init__")
_INITIALIZES = "mmengine.model.base_module"  # by init_cfg
_READS_CONFIG = re.compile(r"swin_dense\.(engine\.config\.|config_tree$|datasets\.check$)")


def as_user_error(error: BaseException) -> UserError | None:
    """The user error that an exception of another library means; None for a bug."""
    if isinstance(error, UserError):
        return error
    text = _message(error)
    if isinstance(error, ModuleNotFoundError) and (
        known := missing_package((error.name or "").partition(".")[0])
    ):
        return known
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return UserError(
            "the GPU's memory is used up: lower train_dataloader.batch_size, or add --amp or "
            "--cfg-options model.backbone.with_cp=True"
        )
    if isinstance(error, FileNotFoundError):
        return UserError(f"no such file: {error.filename or text}")
    if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError)):
        return UserError(f"cannot use {error.filename or text}: {error.strerror or text}")
    if isinstance(error, OSError) and error.errno in OF_DISKS:
        return UserError(f"cannot write {error.filename or 'the results'}: {error.strerror}")
    found = re.search(r"^['\"]?(\S+) is not in the (.+?) registry", text)
    if found and isinstance(error, KeyError):
        return UserError(
            f"the config asks for type {found[1]!r}, which no {found[2]} has: check its spelling, "
            "or name its module in custom_imports"
        )
    if text.startswith("DataLoader worker (pid"):
        return UserError(
            f"a process that loads data was ended ({text.splitlines()[0]}), most often because "
            "memory ran out: lower train_dataloader.num_workers; --resume continues"
        )
    if re.search(r"Cannot find valid image after \d+", text):
        return UserError(
            "the training data has no image that can be read: check data_prefix and --data-root"
        )
    if text.startswith("Expected more than 1 value per channel when training"):
        return UserError(
            "batch normalisation needs more than one image per step and device: raise "
            "train_dataloader.batch_size"
        )
    if place := _place_in_config(error):
        what = f"{type(error).__name__}: {text[:_LONGEST_MESSAGE]}".removesuffix(": ")
        return UserError(f"{place}: {what} (--debug shows where)")
    return None


def _place_in_config(error: BaseException) -> str | None:
    """What could not be made of the config when the error was raised; None if all was made."""
    place = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module, values = frame.f_globals.get("__name__", ""), frame.f_locals
        if module == _REGISTRY:
            kind = values.get("obj_cls") or values.get("obj_type") or values["registry"].name
            place = _cannot_be_built(getattr(kind, "__name__", kind), values.get("cfg"))
        elif module == _INITIALIZES:
            module_type = type(values.get("self")).__name__
            place = f"the config's {module_type} cannot be initialized by its init_cfg"
        elif module == _RUNNER and (found := _OF_RUNNER.fullmatch(frame.f_code.co_name)):
            arguments = [values.get(name) for name in frame.f_code.co_varnames[:2]]
            given = next((a for a in arguments if a is not values.get("self")), None)
            name = (found[1] or "runner").replace("_", " ")
            place = _cannot_be_built(name, given if found[1] else None)
        elif _READS_CONFIG.match(module):
            place = "the config cannot be used"
    return place


def _cannot_be_built(name: str, given: Any) -> str:
    text = repr(given)
    if len(text) > _LONGEST_VALUE:
        text = f"{text[:_LONGEST_VALUE]}..."
    return f"the config's {name} cannot be built" + (f" of {text}" if given is not None else "")


def _message(error: BaseException) -> str:
    """The message, without the traceback that a data-loading worker adds."""
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
    if "in DataLoader worker process" in text:
        return _EXCEPTION_NAME.sub("", text.strip().splitlines()[-1])
    return text
