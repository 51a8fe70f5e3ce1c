"""What the user sees on the terminal; everything else goes to the log file.

OpenMMLab prints its environment, its whole config and messages of many libraries. Inside
:func:`quiet_terminal` all that goes to the run's log file, and the terminal shows only what comes
from :func:`notify_user` and :func:`console`, and warnings that a user can act on.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from logging.handlers import MemoryHandler

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text
from torch.utils.data import get_worker_info

# What libraries warn of themselves; the user of a config can do nothing about it.
_NOISE_PATTERNS = r"""
(is|are|be) deprecated
is the alias of
prefix is not set in metric class
torch\.meshgrid: in an upcoming release
To copy construct from a tensor
The draw is False
lr_scheduler\.step\(\)
epoch parameter in `scheduler\.step
For binary segmentation
align_corners=
avg_non_ignore
No pre-trained weights for
so skip saving parameter schedulers
os\.fork\(\) was called|use of fork\(\) may lead to deadlocks
barrier\(\): using the device under current context
destroy_process_group\(\) was not called
dataset metainfo from the resumed checkpoint
Resumed iteration number is not divisible by
is skipped since its requires_grad=False
"""
NOISE = re.compile("|".join(_NOISE_PATTERNS.split("\n")[1:-1]))
_QUIET_CATEGORIES = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)

_console: Console | None = None
_library_output: LibraryOutput | None = None


class LibraryOutput(io.TextIOBase):
    """A stdout for libraries: its lines go to the log file of the run, once there is one."""

    def __init__(self) -> None:
        self._log = MemoryHandler(capacity=sys.maxsize)  # waits for a target
        self._partial = ""

    def attach(self, log_file: logging.Handler) -> None:
        """Sends all lines to this handler, those that came before too."""
        self._log.setTarget(log_file)
        self._log.flush()

    def line(self, text: str) -> None:
        """Logs one line, now or when there is a log file."""
        self._log.handle(logging.LogRecord("mmengine", logging.INFO, "", 0, text, None, None))
        self._log.flush()

    def write(self, text: str) -> int:  # noqa: D102 (io.TextIOBase)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            if line.strip():
                self.line(line.rstrip())
        return len(text)

    def writable(self) -> bool:  # noqa: D102
        return True


class TerminalHandler(logging.Handler):
    """Shows the part of a log that is for the user on the terminal, above the progress bar.

    These are warnings, errors and, shown as :func:`notify_user` does, messages logged with
    ``extra={"for_user": True}``. Only the first process of a run shows them.
    """

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102
        if get_worker_info():  # it must not touch the bar's lock; the file has its line
            return
        text = record.getMessage().strip()
        level = logging.WARNING if _is_first_process() else logging.CRITICAL
        if getattr(record, "for_user", False) and _is_first_process():
            console().print(Text(text), soft_wrap=True)
        elif record.levelno >= level and not NOISE.search(text):
            console().print(Text(f"{record.levelname.lower()}: {text}"), soft_wrap=True)


def console() -> Console:
    """The terminal, even while stdout is redirected."""
    return _console or Console(highlight=False)


def notify_user(message: str) -> None:
    """Prints a line for the user (on the first process only) and logs it."""
    if _library_output is not None:
        _library_output.line(message)
    if _is_first_process():
        console().print(Text(message), soft_wrap=True)


@contextlib.contextmanager
def download_bar() -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar, on terminals; yields what moves it to some bytes, of a total if known."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    out = console()
    hidden = not (out.is_terminal and _is_first_process())
    bar = Progress(*columns, console=out, transient=True, disable=hidden, redirect_stdout=False)
    with bar as progress:
        task = progress.add_task("download", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def redirect_log(logger: logging.Logger) -> None:
    """Replaces the stream handlers of mmengine's logger by a :class:`TerminalHandler`.

    Its log file still gets everything, and what libraries print.
    """
    for handler in [h for h in logger.handlers if type(h) is logging.StreamHandler]:
        quiet = TerminalHandler()
        quiet.filters = handler.filters  # mmengine's, against repeated warnings
        logger.removeHandler(handler)
        logger.addHandler(quiet)
    files = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
    for handler in files:
        handler.handleError = functools.partial(_tell_once, handler)  # type: ignore[method-assign]
    if _library_output is not None and files:
        _library_output.attach(files[0])


def _tell_once(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """Shows that a log cannot be written, in place of a traceback for each record."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.Handler.handleError(handler, record)
    elif not getattr(handler, "is_broken", False) and not get_worker_info():
        handler.is_broken = True  # type: ignore[attr-defined]
        reason = error.strerror or error
        console().print(
            Text(f"warning: cannot write the log {handler.baseFilename}: {reason}"), soft_wrap=True
        )


@contextlib.contextmanager
def quiet_terminal() -> Iterator[None]:
    """Redirects what libraries print to the log file; :func:`notify_user` reaches the terminal.

    Nested use keeps the outer one.
    """
    global _console, _library_output
    if _console is not None:
        yield
        return
    _console = Console(file=sys.stdout, highlight=False)
    _library_output = LibraryOutput()
    try:
        with contextlib.redirect_stdout(_library_output), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    except BaseException:
        _console.show_cursor()  # a signal may have come while a bar began
        raise
    finally:
        _console = _library_output = None


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Logs a Python warning; shows it as one line when it is about what the user did."""
    text = " ".join(str(message).split())
    if _library_output is not None:
        _library_output.line(f"{category.__name__} ({filename}:{lineno}): {text}")
    if issubclass(category, _QUIET_CATEGORIES) or NOISE.search(text) or get_worker_info():
        return
    if _library_output is not None and _is_first_process():
        console().print(Text(f"warning: {text}"), soft_wrap=True)


def _is_first_process() -> bool:
    """Whether this is the process of rank 0, also before torch.distributed is initialised."""
    names = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"
