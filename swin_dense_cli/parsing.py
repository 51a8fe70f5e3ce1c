"""What the commands share: common flags, and one-line messages for user errors."""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_USER_ERROR_STATUS = 2
# Set by torchrun, Slurm and MPI; the first process of a run tells what is starting.
_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")


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


def build_parser(description: str, prog: str | None, epilog: str = "") -> OneLineParser:
    """A parser with the flags of tools that run a model: config, options, device."""
    parser = OneLineParser(prog=prog, description=description, epilog=epilog)
    parser.add_argument("config", help="config file, or the name of a packaged config")
    add_config_options(
        parser,
        "settings that replace those of the config, e.g. train_dataloader.batch_size=4 "
        "model.backbone.depths=[2,2,6,2] (quote lists with spaces or brackets)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU when there is one), cpu, cuda or cuda:N"
    )
    return parser


def add_config_options(parser: argparse.ArgumentParser, text: str | None = None) -> None:
    """Adds OpenMMLab's ``--cfg-options``, whose values :func:`run_tool` reads."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        type=_key_and_value,
        metavar="KEY=VALUE",
        help=text,
    )


def _key_and_value(item: str) -> str:
    key, equals, _ = item.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{item!r} is not of the form key=value")
    return item


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

    ``body`` gets the arguments except ``--debug`` and ``--local-rank``, which are used here; it
    imports what it needs, so that ``--help`` and misspelt flags are answered at once.

    Returns:
        The exit status: 0, 2 after a user error, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        Exception: any other; that is a bug, and its traceback is needed.
    """
    args = parser.parse_args(argv)
    debug = vars(args).pop("debug", False)
    if (local_rank := vars(args).pop("local_rank", None)) is not None:
        os.environ.setdefault("LOCAL_RANK", local_rank)
    try:
        _announce(parser, args)
        if getattr(args, "cfg_options", None):
            from swin_dense.engine.config.load import parse_options

            args.cfg_options = parse_options(args.cfg_options)
        with _ended_by_sigterm():
            body(args)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130  # as shells report it
    except Exception as error:
        user_error = _user_error(error)
        if user_error is None:
            raise
        if debug:
            traceback.print_exc()
        if user_error.is_shown:
            print(f"{user_error.prefix}{' '.join(str(user_error).split())}", file=sys.stderr)
        return user_error.status
    return 0


def run_command(
    name: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Runs ``swin_dense.commands.NAME``, which also gets the command line, for its records."""
    parser.set_defaults(command=sys.argv[1:] if argv is None else argv)

    def run(args: argparse.Namespace) -> None:
        importlib.import_module(f"swin_dense.commands.{name}").run(args)

    return run_tool(parser, run, argv)


class _End:
    """A handler that ends the process as an error does: files and the terminal are left whole."""

    gives_way = True
    """To that of a training, which saves a checkpoint first."""

    def __call__(self, number: int, _frame: object) -> None:
        if _is_first_process():
            # Not by print(), which may be what is interrupted.
            os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
        raise SystemExit(128 + number)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _End())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _announce(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Tells what is starting, if that takes seconds: PyTorch and OpenMMLab are to be imported."""
    if "swin_dense" not in sys.modules and _is_first_process():
        words = [parser.prog.removesuffix(".py"), *filter(None, [getattr(args, "config", None)])]
        print(f"{' '.join(words)}: loading PyTorch and OpenMMLab", flush=True)


def _is_first_process() -> bool:
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"


def _user_error(error: Exception) -> Any:
    """The :class:`swin_dense.errors.UserError` that an exception means; None for a bug."""
    errors = sys.modules.get("swin_dense.errors")
    if errors is not None and isinstance(error, errors.UserError):
        return error
    if "swin_dense" not in sys.modules:  # it could not be imported
        return None
    from swin_dense.engine.terminal.user_errors import as_user_error

    return as_user_error(error)
