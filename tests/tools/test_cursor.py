"""A signal in the middle of a progress bar leaves the terminal as it was: the cursor is shown."""

import json
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("pty")  # not on Windows
from stopped_in_terminals import HIDE, SHOW, in_terminal

pytestmark = pytest.mark.parametrize("trained", ["segmentor"], indirect=True)


def check(found: tuple[int, str], status: int) -> str:
    code, shown = found
    assert code == status, shown
    assert shown.count(HIDE) >= 1
    assert shown.rfind(SHOW) > shown.rfind(HIDE), shown
    return shown


def slow_config(trained, folder: Path) -> Path:
    config = folder / "config.py"
    config.write_text(f"_base_ = [{str(trained.config)!r}]\ncustom_hooks = [dict(type='Slow')]\n")
    return config


def test_training(trained, python, tmp_path):
    script = Path(__file__).with_name("stopped_in_terminals.py")
    printed = python(script, slow_config(trained, tmp_path), trained.data_root, tmp_path)
    term, interrupt, twice = json.loads(printed.splitlines()[-1])
    assert "stopped by SIGTERM after iteration" in check(term, 143)
    assert "stopped by Ctrl-C after iteration" in check(interrupt, 130)
    check(twice, 130)


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
