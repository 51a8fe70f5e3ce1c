"""Forked processes, which start at once: a new one imports PyTorch and OpenMMLab for seconds."""

import atexit
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

import swin_dense  # noqa: F401  (prepares OpenMMLab)

_POLL = 0.005  # seconds


def preload(modules: str) -> None:
    """Imports what an earlier child had imported (a line for each), so that later ones need not.

    Children are forked, so this process must have one thread only: it runs no model.
    """
    torch.set_num_threads(1)
    for name in modules.split():
        try:
            importlib.import_module(name)
        except Exception:  # some modules exist only within others
            continue
    gc.collect()
    gc.freeze()  # or each child would look through, and so copy, all of this


class Child:
    """A forked process, in a session of its own, that ends with the status that ``call`` returns.

    Args:
        call: what it does.
        folder: its working folder; what it prints is in ``NAME.out`` and ``NAME.err`` there.
        name: of this child.
        variables: what its environment has beside that of this process.
    """

    def __init__(
        self,
        call: Callable[[], int | None],
        folder: Path,
        name: str,
        variables: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out_file, self.err_file = folder / f"{name}.out", folder / f"{name}.err"
        self.out_file.touch()  # it may be killed before it does so
        self.err_file.touch()
        self.status: int | None = None  # as of subprocess: -9 is SIGKILL
        self.started = time.monotonic()
        self.seconds = 0.0
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(call, folder, variables or {})

    def _run(self, call: Callable[[], int | None], folder: Path, variables: dict) -> None:
        status: object = 1
        try:
            os.setsid()
            for path, descriptor in ((self.out_file, 1), (self.err_file, 2)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            os.environ.update(variables)
            os.chdir(folder)
            status = call() or 0
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status if isinstance(status, int) else 1)

    @property
    def out(self) -> str:
        return self.out_file.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.err_file.read_text(errors="replace")

    def wait(self, timeout: float) -> int | None:
        """The exit status, or None if it still runs after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.seconds = time.monotonic() - self.started
            elif time.monotonic() > end:
                return None
            else:
                time.sleep(_POLL)
        return self.status

    def send(self, number: int) -> None:
        """Sends a signal to the process itself, unless it has ended."""
        if self.wait(0) is None:
            os.kill(self.pid, number)

    def family(self) -> list[int]:
        """The processes that are left of its session."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):  # it has just ended
                continue
            if int(session) == self.pid and state != "Z":
                found.append(int(stat.parent.name))
        return found

    def wait_for_family(self, timeout: float) -> bool:
        """Whether all processes of its session end within ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while self.family():
            if time.monotonic() > end:
                return False
            time.sleep(10 * _POLL)
        return True

    def end(self) -> None:
        """Kills what is left of it and of the processes that it started."""
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.wait(60)


def one_line_error(child: Child) -> str | None:
    """What is wrong with the way in which a child reported a user's error; None: nothing."""
    if child.status != 2:
        return f"status {child.status} in place of 2"
    lines = child.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if "Traceback" in child.err or "--- Logging error ---" in child.err:
        return "a traceback"
    if len(errors) != 1 or not lines[-1].startswith("error: "):
        return f"{len(errors)} error lines, {len(lines)} lines in all"
    return None
