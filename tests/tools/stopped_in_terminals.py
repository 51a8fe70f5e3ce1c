"""For test_cursor.py: commands that get signals in a terminal of their own.

As a script, trainings: they fork, which a process that has computed gradients may not.
"""

import json
import os
import pty
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
SIGNALS = ((signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT))


@HOOKS.register_module(force=True)
class Slow(Hook):
    """Time for a signal in each iteration."""

    def before_train_iter(self, *_, **__):
        time.sleep(0.5)

    before_val_iter = before_test_iter = before_train_iter


def in_terminal(call: Callable[[], int], *signals: int, when: str = HIDE) -> tuple[int, str]:
    """Runs ``call`` in a forked process, and sends it signals when it has shown ``when``.

    Returns:
        Its exit status, and all that its terminal got.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        process, terminal = pty.fork()
    if process == 0:
        status = 1
        try:
            os.environ |= {"TERM": "xterm", "COLUMNS": "100"}
            sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))
            status = call()
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    shown, pending = b"", list(signals)
    while part := _read(terminal):
        shown += part
        if when.encode() in shown and pending:
            os.kill(process, pending.pop(0))
            time.sleep(1.2 if pending else 0)  # a second Ctrl-C counts after a second
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux's way of saying that the other end is closed
        return b""


def main(config: str, data_root: str, folder: str) -> None:
    """Prints exit status and output of a training for each of SIGNALS."""
    from swin_dense_cli import train

    torch.set_num_threads(1)
    found = []
    for number, signals in enumerate(SIGNALS):
        flags = ["--data-root", data_root, "--work-dir", f"{folder}/{number}", "--from-scratch"]
        call = [config, *flags, "--no-report"]
        status, shown = in_terminal(lambda call=call: train.main(call), *signals, when="1/4")
        found.append((status, shown))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
