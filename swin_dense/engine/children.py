"""Processes that end with those that started them, also if these are killed.

- Processes that a training or test forks, such as its data loaders', get SIGKILL from the kernel
  when it is gone (Linux). They leave SIGTERM and SIGUSR1, which a cluster may send to all processes
  of a job, and Ctrl-C, to the process that trains, and obey these only from there. On other
  systems, PyTorch's loaders notice within seconds, between two batches.
- A process that torchrun started looks whether that is still there: it gets SIGTERM, and later
  SIGKILL, if not.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
)
_SECONDS_TO_STOP = 60.0
_SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

_guarding = 0  # the process whose forks are guarded
_watched = False


@contextlib.contextmanager
def linked_processes() -> Iterator[None]:
    """Lets what this process forks in the block, and this process under torchrun, end as above."""
    global _guarding, _watched
    before, _guarding = _guarding, os.getpid()
    if "TORCHELASTIC_RUN_ID" in os.environ and not _watched:
        _watched = True
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        yield
    finally:
        _guarding = before


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_STOP)
    os.kill(os.getpid(), signal.SIGKILL)


def _after_fork() -> None:
    global _guarding
    parent, _guarding = _guarding, 0
    if not parent or _libc is None:
        return
    _libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
    # Blocked rather than handled: PyTorch sets handlers of its own later.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    threading.Thread(target=_obey, args=(parent,), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo(STOP_SIGNALS).si_pid != parent:
        pass
    os._exit(0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
