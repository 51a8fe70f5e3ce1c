"""Errors of other libraries that mean a mistake of the user."""

import re
import traceback
from pathlib import Path

import torch

import swin_dense
from swin_dense.compat.forks import missing_package
from swin_dense.engine.paths import OF_DISKS
from swin_dense.errors import UserError

_EXCEPTION_NAME = re.compile(r"^[\w.]+: ")
_PACKAGE = Path(swin_dense.__file__).parent


def as_user_error(error: BaseException) -> UserError | None:
    """The user error that an exception of another library means; None for a bug."""
    if isinstance(error, UserError):
        return error
    text = _message(error)
    if isinstance(error, ModuleNotFoundError):
        return missing_package((error.name or "").partition(".")[0])
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
    found = re.search(r"^['\"]?(\S+) is not in the (\S+) registry", text)
    if found and isinstance(error, KeyError):
        return UserError(
            f"the config asks for type {found[1]!r}, which no {found[2]} has: check its spelling, "
            "or name its module in custom_imports"
        )
    if _is_bad_argument(error):
        return UserError(f"the config does not fit the type it asks for: {text}")
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
    return None


def _is_bad_argument(error: BaseException) -> bool:
    """Whether the config gives a class arguments that it does not take.

    Either Python raises it where mmengine's registry calls the class, or the class is one of ours,
    whose constructors check what they are given.
    """
    frames = traceback.extract_tb(error.__traceback__)
    calls = [i for i, f in enumerate(frames) if Path(f.filename).name == "build_functions.py"]
    if not calls:
        return False
    if isinstance(error, TypeError):
        in_constructors = all(frame.name == "__init__" for frame in frames[calls[-1] + 1 :])
        return in_constructors and "argument" in str(error)
    return isinstance(error, ValueError) and _PACKAGE in Path(frames[-1].filename).parents


def _message(error: BaseException) -> str:
    """The message, without the traceback that a data-loading worker adds."""
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
    if "in DataLoader worker process" in text:
        return _EXCEPTION_NAME.sub("", text.strip().splitlines()[-1])
    return text
