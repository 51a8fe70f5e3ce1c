"""A training that gets SIGTERM or SIGUSR1 saves a checkpoint after its step and stops."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from tiny_training import Send, runner

from swin_dense.checkpoints import load_checkpoint
from swin_dense.engine.stopping import StopHook, stop_requests
from swin_dense.engine.work_dir import find_checkpoint
from swin_dense.errors import StoppedError

HERE = Path(__file__).parent


def stop(made, *hooks: Hook) -> StoppedError:
    """Trains until the signal comes; its error."""
    with stop_requests() as request:
        for hook in (*hooks, StopHook(request)):
            made.register_hook(hook)
        with pytest.raises(StoppedError) as caught:
            made.train()
    return caught.value


@pytest.mark.parametrize("by_epoch", [False, True])
def test_training_stops_after_the_step(tmp_path, by_epoch):
    made = runner(tmp_path, by_epoch=by_epoch, interval=100)
    error = stop(made, Send("before_train_iter", 2))
    path = str(tmp_path / "iter_3.pth")
    how = f"--work-dir {tmp_path} --resume continues"
    assert str(error) == f"stopped by SIGTERM after iteration 3, saved as {path}: {how}"
    assert (error.status, error.prefix) == (143, "")
    assert find_checkpoint(tmp_path) == path
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_epoch_that_ends_is_saved_as_such(tmp_path):
    made = runner(tmp_path, by_epoch=True, interval=1)
    error = stop(made, Send("after_train_iter", 1, signal.SIGUSR1))
    assert f"SIGUSR1 after iteration 2, saved as {tmp_path / 'epoch_1.pth'}: " in str(error)
    assert error.status == 128 + signal.SIGUSR1
    assert not list(tmp_path.glob("iter_*"))


def test_added_up_gradients_are_not_lost(tmp_path):
    made = runner(tmp_path, interval=100)
    made.optim_wrapper._accumulative_counts = 3
    assert "after iteration 3" in str(stop(made, Send("before_train_iter", 0)))


@pytest.mark.parametrize("interval", [2, 100])
def test_an_evaluation_is_left_at_once(tmp_path, interval):
    """The weights that are saved are those of the training, not their averages."""
    made = runner(tmp_path, interval=interval)
    error = stop(made, Send("before_val_iter", 2), EMAHook(momentum=0.5))
    assert f"after iteration 2, saved as {tmp_path / 'iter_2.pth'}: " in str(error)
    assert made.val_loop.evaluator.metrics[0].score == 0
    (tmp_path / "other").mkdir()
    other = runner(tmp_path / "other", steps=2, interval=2)
    other.register_hook(EMAHook(momentum=0.5))
    other.train()
    found, expected = (
        load_checkpoint(folder / "iter_2.pth") for folder in (tmp_path, tmp_path / "other")
    )
    for name in ("state_dict", "ema_state_dict"):
        torch.testing.assert_close(found[name], expected[name])


def test_after_the_last_step_nothing_is_lost(tmp_path, capsys):
    made = runner(tmp_path, steps=2, interval=2)
    with stop_requests() as request:
        made.register_hook(StopHook(request))
        made.train()
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143
    expected = "stopped by SIGTERM after the training had ended: nothing is lost\n"
    assert capsys.readouterr().err == expected


class AfterStop(Hook):
    """What is done when a training has stopped, as its report: another signal comes."""

    def after_stop(self, runner):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_after_the_stop_ends_at_once(tmp_path, capsys):
    """The message is there before."""
    made = runner(tmp_path, interval=100)
    with stop_requests() as request:
        hook = StopHook(request)
        for one in (Send("before_train_iter", 2, signal.SIGINT), AfterStop(), hook):
            made.register_hook(one)
        with pytest.raises(StoppedError) as caught:
            made.train()
        with pytest.raises(SystemExit) as ended:
            hook.end_run(made, caught.value)
    assert ended.value.code == 130
    expected = [str(caught.value), "stopped by SIGINT while the report was written"]
    assert capsys.readouterr().err.splitlines()[-2:] == expected
    assert not caught.value.is_shown


def test_before_the_first_step_nothing_is_waited_for(capsys):
    with stop_requests(), pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_the_second_ctrl_c_ends_at_once(monkeypatch, capfd):
    """But not the one that torchrun passes on at the same moment."""
    now = [100.0]
    monkeypatch.setattr("swin_dense.engine.stopping.time.monotonic", lambda: now[0])
    with stop_requests() as request:
        request.is_watched = True
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == signal.SIGINT
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err.count("stopping after this step") == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_a_library_makes_another_error_of():
    """As mmengine, when it formats a config; before the training nothing is saved."""

    def format_config():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException as error:
            raise SyntaxError("Failed to format the config file") from error

    with pytest.raises(KeyboardInterrupt), stop_requests():
        format_config()


def test_ctrl_c_that_a_library_swallows(tmp_path):
    made = runner(tmp_path, interval=100)
    with stop_requests() as request:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
        made.register_hook(StopHook(request))
        with pytest.raises(StoppedError, match="stopped by Ctrl-C after iteration 1") as caught:
            made.train()
    assert caught.value.status == 130


def test_handlers_of_the_process_stay():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert request.signal is None
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_processes_stop_after_the_same_step(tmp_path):
    """Only the second one gets the signal."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    path = os.pathsep.join((str(HERE), str(HERE.parents[1])))
    started = [
        subprocess.Popen(
            [sys.executable, HERE / "stop_processes.py", tmp_path],
            env={**os.environ, **variables, "RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    errors = [process.communicate(timeout=400)[1] for process in started]
    assert [process.returncode for process in started] == [143, 128 + signal.SIGUSR1], errors
    done = load_checkpoint(find_checkpoint(tmp_path))["meta"]["iter"]
    assert 3 <= done <= 5
    assert {(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)} == {str(done)}
