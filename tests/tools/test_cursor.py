"""A signal in the middle of a progress bar leaves the terminal as it was: the cursor is shown."""

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

pty = pytest.importorskip("pty")  # not on Windows
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
pytestmark = pytest.mark.parametrize("trained", ["segmentor"], indirect=True)


@HOOKS.register_module(force=True)
class Slow(Hook):
    """Time for a signal in each iteration."""

    def before_train_iter(self, *_, **__):
        time.sleep(0.5)

    before_val_iter = before_test_iter = before_train_iter


def in_terminal(call: Callable[[], int], *signals: int, when: bytes = HIDE) -> tuple[int, bytes]:
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
        if when in shown and pending:
            os.kill(process, pending.pop(0))
            time.sleep(1.2 if pending else 0)  # a second Ctrl-C counts after a second
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux's way of saying that the other end is closed
        return b""


def check(found: tuple[int, bytes], status: int) -> str:
    code, shown = found
    assert code == status, shown.decode()
    assert shown.count(HIDE) >= 1
    assert shown.rfind(SHOW) > shown.rfind(HIDE), shown.decode()
    return shown.decode()


def slow_config(trained, folder: Path) -> Path:
    config = folder / "config.py"
    config.write_text(f"_base_ = [{str(trained.config)!r}]\ncustom_hooks = [dict(type='Slow')]\n")
    return config


@pytest.mark.parametrize(
    ("signals", "status", "last"),
    [
        ([signal.SIGTERM], 143, "stopped by SIGTERM after iteration"),
        ([signal.SIGINT], 130, "stopped by Ctrl-C after iteration"),
        ([signal.SIGINT, signal.SIGINT], 130, ""),
    ],
)
def test_training(trained, tool, tmp_path, signals, status, last):
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path / "w", "--from-scratch"]
    call = ["train", slow_config(trained, tmp_path), *flags]
    found = in_terminal(lambda: tool(*call), *signals, when=b"1/4")
    assert last in check(found, status)


def test_test(trained, tool, tmp_path):
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path / "w"]
    call = ["test", slow_config(trained, tmp_path), trained.checkpoint, *flags]
    shown = check(in_terminal(lambda: tool(*call), signal.SIGTERM), 143)
    assert "stopped by SIGTERM" in shown


def test_predict(trained, tool, tmp_path, monkeypatch):
    monkeypatch.setattr("swin_dense.engine.predict_files.read_image", lambda path: time.sleep(60))
    call = ["predict", trained.config, trained.checkpoint, trained.data_root / "val2017"]
    found = in_terminal(lambda: tool(*call, "--out", tmp_path / "out"), signal.SIGTERM)
    assert "stopped by SIGTERM" in check(found, 143)
    assert not list(Path(tmp_path / "out").iterdir())
