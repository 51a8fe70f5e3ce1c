"""What the user sees on the terminal; everything else goes to the log file.

OpenMMLab writes its environment, its whole config and every library's chatter to stdout. Inside
:func:`quiet_terminal` that text goes to the run's log file, and the terminal shows only what this
package prints through :func:`notify_user` and :func:`console`, and warnings that a user can act
on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

# Said by libraries about themselves; the user of a config can do nothing about them.
NOISE = re.compile(
    "|".join(
        (
            r"(is|are|be) deprecated",
            r"is the alias of",
            r"prefix is not set in metric class",
            r"torch\.meshgrid: in an upcoming release",
            r"To copy construct from a tensor",
            r"The draw is False",
            r"lr_scheduler\.step\(\)",
            r"epoch parameter in `scheduler\.step",
            r"For binary segmentation",
            r"align_corners=",
            r"avg_non_ignore",
            r"No pre-trained weights for",
            r"so skip saving parameter schedulers",
            r"os\.fork\(\) was called|use of fork\(\) may lead to deadlocks",
            r"barrier\(\): using the device under current context",
            r"destroy_process_group\(\) was not called",
            r"dataset metainfo from the resumed checkpoint",
        )
    )
)
_QUIET_CATEGORIES = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)

_console: Console | None = None
_library_output: LibraryOutput | None = None


class LibraryOutput(io.TextIOBase):
    """A stdout for libraries: its lines land in the log file of the current run.

    Lines written before there is a log file wait for it (:meth:`attach`).
    """

    def __init__(self) -> None:
        self._handlers: list[logging.Handler] = []
        self._waiting: list[str] = []
        self._partial = ""

    def attach(self, handlers: list[logging.Handler]) -> None:
        """Sends all lines from now on, and those that waited, to these handlers."""
        self._handlers = handlers
        waiting, self._waiting = self._waiting, []
        for line in waiting:
            self.line(line)

    def line(self, text: str) -> None:
        """Logs one line."""
        if not self._handlers:
            self._waiting.append(text)
        record = logging.LogRecord("mmengine", logging.INFO, "", 0, text, None, None)
        for handler in self._handlers:
            handler.handle(record)

    def write(self, text: str) -> int:  # noqa: D102 (io.TextIOBase)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            if line.strip():
                self.line(line.rstrip())
        return len(text)

    def writable(self) -> bool:  # noqa: D102
        return True


class TerminalHandler(logging.Handler):
    """Shows on the terminal, above the progress bar, what of a log is for the user.

    That is warnings and errors, and what is logged with ``extra={"for_user": True}``, which looks
    as if :func:`notify_user` had printed it. Only the first process of a run shows them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._owner = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102
        # A forked data-loading worker must not touch the bar's lock; the file has its line.
        if os.getpid() != self._owner:
            return
        text = record.getMessage().strip()
        level = logging.WARNING if _is_first_process() else logging.CRITICAL
        if getattr(record, "for_user", False) and _is_first_process():
            console().print(Text(text), soft_wrap=True)
        elif record.levelno >= level and not NOISE.search(text):
            console().print(Text(f"{record.levelname.lower()}: {text}"), soft_wrap=True)


def console() -> Console:
    """The terminal, whatever stdout is redirected to in the meantime."""
    return _console or Console(highlight=False)


def notify_user(message: str, style: str = "") -> None:
    """Prints a line for the user (on the first process only) and logs it."""
    if _library_output is not None:
        _library_output.line(message)
    if _is_first_process():
        console().print(Text(message, style=style), soft_wrap=True)


def redirect_log(logger: logging.Logger) -> None:
    """Takes an OpenMMLab logger off the terminal, except warnings and messages for the user.

    Its file keeps everything.

    Args:
        logger: one with stream and file handlers, as mmengine builds it.
    """
    files = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
    for handler in [h for h in logger.handlers if type(h) is logging.StreamHandler]:
        quiet = TerminalHandler()
        quiet.filters = handler.filters  # mmengine's, against repeated warnings
        logger.removeHandler(handler)
        logger.addHandler(quiet)
    if _library_output is not None:
        _library_output.attach(files)


@contextlib.contextmanager
def quiet_terminal() -> Iterator[Console]:
    """Redirects what libraries print to the log file; :func:`notify_user` reaches the terminal.

    Nested use keeps the outer one.
    """
    global _console, _library_output
    if _console is not None:
        yield _console
        return
    _console = Console(file=sys.stdout, highlight=False)
    _library_output = LibraryOutput()
    try:
        with contextlib.redirect_stdout(_library_output), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield _console
    finally:
        _console = _library_output = None


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Logs a Python warning; shows it as one line when it is about what the user did."""
    text = " ".join(str(message).split())
    if _library_output is not None:
        _library_output.line(f"{category.__name__} ({filename}:{lineno}): {text}")
    quiet = issubclass(category, _QUIET_CATEGORIES) or NOISE.search(text)
    in_main_process = _library_output is not None and _is_first_process()
    if not quiet and in_main_process and not _in_worker():
        console().print(Text(f"warning: {text}"), soft_wrap=True)


def _is_first_process() -> bool:
    """Whether this is the process that talks, before torch.distributed is up as well."""
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        if name in os.environ:
            return os.environ[name] == "0"
    return True


def _in_worker() -> bool:
    from torch.utils.data import get_worker_info

    return get_worker_info() is not None
