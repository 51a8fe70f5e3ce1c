"""What the command line tools share: common flags, and one-line messages for user errors."""

import argparse
import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import DictAction

import swin_dense
from swin_dense.compat.forks import missing_package
from swin_dense.engine.launch import OtherProcessError
from swin_dense.errors import UserError

_USER_ERROR_STATUS = 2
_EXCEPTION_NAME = re.compile(r"^[\w.]+: ")
_PACKAGE = Path(swin_dense.__file__).parent


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all user errors here, with ``--debug``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # No default: that of a subcommand would replace the flag in front of it.
        self.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show the traceback of every error",
        )

    def error(self, message: str):
        """Prints the message and exits with status 2."""
        self.exit(_USER_ERROR_STATUS, f"error: {message} (see {self.prog} --help)\n")


class ConfigOptions(DictAction):
    """``--cfg-options key=value ...`` as OpenMMLab reads it, with messages for wrong ones."""

    def __call__(self, parser, namespace, values, option_string=None):  # noqa: D102
        for item in values:
            key, equals, value = item.partition("=")
            if not equals or not key:
                parser.error(f"{option_string}: {item!r} is not of the form key=value")
            with contextlib.suppress(AssertionError):
                self._parse_iterable(value)
                continue
            parser.error(f"{option_string}: brackets do not match in {item!r}")
        super().__call__(parser, namespace, values, option_string)


def build_parser(description: str, epilog: str = "") -> OneLineParser:
    """A parser with the flags of tools that run a model: config, options, device."""
    parser = OneLineParser(description=description, epilog=epilog)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help="settings that replace those of the config, e.g. train_dataloader.batch_size=4 "
        "model.backbone.depths=[2,2,6,2] (quote lists with spaces or brackets)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU when there is one), cpu, cuda or cuda:N"
    )
    return parser


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that training and testing share, with mmdet's and mmseg's names."""
    parser.add_argument("--work-dir", help="where logs and results go (work_dirs/<config>)")
    parser.add_argument(
        "--data-root",
        help="folder of the data, for every data set and evaluator of the config; relative paths "
        "within it stay",
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how the processes of a distributed run are started (pytorch: by torchrun)",
    )
    parser.add_argument(
        "--tf32",
        action="store_true",
        help="multiply float32 matrices in TF32, each product within about 1e-3: faster on NVIDIA "
        "GPUs of capability 8.0 (2020) and above; convolutions use it anyway (PyTorch's default)",
    )
    # torch.distributed.launch, the older form of torchrun, passes one of these.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)


def run_tool(
    parser: argparse.ArgumentParser,
    body: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parses the command line, runs the tool and prints user errors as one line on stderr.

    ``body`` gets the arguments except ``--debug`` and ``--local-rank``, which are used here.

    Returns:
        The exit status: 0, 2 after a user error, 130 after Ctrl-C.

    Raises:
        Exception: any other; that is a bug, and its traceback is needed.
    """
    args = parser.parse_args(argv)
    debug = vars(args).pop("debug", False)
    if (local_rank := vars(args).pop("local_rank", None)) is not None:
        os.environ.setdefault("LOCAL_RANK", local_rank)
    try:
        body(args)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130  # as shells report it
    except Exception as error:
        user_error = as_user_error(error)
        if user_error is None:
            raise
        if debug:
            traceback.print_exc()
        if not isinstance(user_error, OtherProcessError):
            print(f"error: {' '.join(str(user_error).split())}", file=sys.stderr)
        return _USER_ERROR_STATUS
    return 0


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
    if isinstance(error, OSError) and error.errno == 28:
        return UserError(f"no space left on the disk of {error.filename or 'the work directory'}")
    found = re.search(r"^['\"]?(\S+) is not in the (\S+) registry", text)
    if found and isinstance(error, KeyError):
        return UserError(
            f"the config asks for type {found[1]!r}, which no {found[2]} has: check its spelling, "
            "or name its module in custom_imports"
        )
    if _is_bad_argument(error):
        return UserError(f"the config does not fit the type it asks for: {text}")
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
