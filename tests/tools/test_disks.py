"""Full disks and processes that are ended from outside: one line, and nothing is lost.

A limit on the size of files stands in for the end of a disk.
"""

import logging
import os
import resource
import shutil
import signal

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from swin_dense.engine.paths import output_errors
from swin_dense.engine.runner import Runner
from swin_dense.engine.terminal.console import redirect_log
from swin_dense.engine.terminal.user_errors import as_user_error
from swin_dense.engine.work_dir import find_checkpoint
from swin_dense.errors import UserError


@pytest.fixture
def limit():
    """Limits the size of files that this process writes, until the end of the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@HOOKS.register_module(force=True)
class CallBack(Hook):
    """Calls a function of the test before the third iteration of a training, or in a test."""

    call = None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            CallBack.call()

    def before_test_epoch(self, runner):
        CallBack.call()


@pytest.fixture
def segmentor(tmp_path, shapes_root, monkeypatch):
    """The command line of a training that saves every second iteration."""
    config = tmp_path / "config.py"
    base = os.path.join(os.path.dirname(__file__), "tiny_segmentor.py")
    config.write_text(
        f"_base_ = [{base!r}]\ncustom_hooks = [dict(type='CallBack')]\n"
        "default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=1))\n"
    )
    monkeypatch.setattr(CallBack, "call", lambda: None)
    return ["train", config, "--data-root", shapes_root, "--work-dir", tmp_path / "w", "--seed", 0]


def test_training_on_a_disk_that_gets_full(segmentor, failure, tool, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(CallBack, "call", lambda: limit(1 << 20))
    line = failure(*segmentor)
    folder = tmp_path / "w"
    assert f"cannot write {folder / 'iter_4.pth'}: File too large" in line
    assert f"{folder / 'iter_2.pth'} is saved: --work-dir {folder} --resume continues" in line
    assert [p.name for p in folder.glob("*.pth") if not p.is_symlink()] == ["iter_2.pth"]
    limit(resource.RLIM_INFINITY)
    monkeypatch.setattr(CallBack, "call", lambda: None)
    assert tool(*segmentor, "--resume") == 0
    assert find_checkpoint(folder) == str(folder / "iter_4.pth")


def test_a_disk_that_is_full_before_the_start(segmentor, failure, limit, monkeypatch, tmp_path):
    monkeypatch.setattr("swin_dense.engine.train.check_data", lambda *_, **__: limit(4000) or [])
    line = failure(*segmentor)
    assert f"cannot write {tmp_path / 'w'}" in line
    assert "File too large; give another --work-dir" in line


def test_work_dir_that_is_removed(segmentor, failure, tmp_path, monkeypatch):
    monkeypatch.setattr(CallBack, "call", lambda: shutil.rmtree(tmp_path / "w"))
    line = failure(*segmentor)
    assert f"{tmp_path / 'w'} is gone" in line


def test_sigterm_and_resume(segmentor, tool, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(CallBack, "call", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert tool(*segmentor) == 143
    path = tmp_path / "w" / "iter_3.pth"
    saved = f"saved as {path}: --work-dir {tmp_path / 'w'} --resume continues"
    assert capfd.readouterr().err == f"stopped by SIGTERM after iteration 3, {saved}\n"
    monkeypatch.setattr(CallBack, "call", lambda: None)
    assert tool(*segmentor, "--resume") == 0
    assert f"continuing from {path}: 3 of 4 iterations are done" in capfd.readouterr().out


def test_resume_without_a_checkpoint_starts_anew(segmentor, tool, tmp_path, capfd):
    assert tool(*segmentor, "--resume", "--save-every", "1") == 0
    out = capfd.readouterr().out
    assert f"nothing to resume: {tmp_path / 'w'} has no checkpoint; starting anew" in out
    assert (tmp_path / "w" / "iter_3.pth").is_file()


def test_bad_interval(segmentor, failure):
    assert "--save-every 0" in failure(*segmentor, "--save-every", "0")
    options = ["--cfg-options", "default_hooks.checkpoint=None"]
    assert "has no CheckpointHook" in failure(*segmentor, "--save-every", "5", *options)


@pytest.mark.parametrize("flag", ["--show-dir", "--out"])
def test_results_on_a_full_disk(trained, failure, limit, tmp_path, monkeypatch, flag):
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = [{str(trained.config)!r}]\ncustom_hooks = [dict(type='CallBack')]")
    monkeypatch.setattr(CallBack, "call", lambda: limit(2000))
    out = tmp_path / "results" / ("p.pkl" if flag == "--out" else "")
    words = ["test", config, trained.checkpoint, "--data-root", trained.data_root]
    line = failure(*words, "--work-dir", tmp_path / "w", flag, out)
    if trained.kind == "segmentor" or flag == "--show-dir":  # mmdet's metrics write too
        assert f"cannot write {tmp_path / 'results'}" in line
        assert f"give another {flag}" in line
    assert "File too large" in line
    assert not list((tmp_path / "results").iterdir())


def test_an_error_without_a_name_is_of_the_folder_that_is_full(tmp_path, limit):
    limit(100)
    with (
        pytest.raises(UserError, match=f"cannot write {tmp_path}: .*--out"),
        output_errors({"--work-dir": None, "--out": tmp_path}),
    ):
        raise OSError(28, "No space left on device")


def test_errors_of_other_files_stay(tmp_path):
    with pytest.raises(FileNotFoundError), output_errors({"--out": tmp_path / "out"}):
        (tmp_path / "data.json").read_text()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_full_log_is_told_once(capfd):
    logger = logging.Logger("test")
    logger.addHandler(logging.FileHandler("/dev/full"))
    redirect_log(logger)
    for _ in range(3):
        logger.info("a line")
    out, err = capfd.readouterr()
    assert out == "warning: cannot write the log /dev/full: No space left on device\n"
    assert err == ""


class Killed(torch.utils.data.Dataset):
    """Ends the process that loads it."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_loader_is_one_line():
    with pytest.raises(RuntimeError) as caught:
        list(torch.utils.data.DataLoader(Killed(), num_workers=1))
    line = str(as_user_error(caught.value))
    assert "num_workers" in line
    assert "\n" not in line


def test_torchrun_without_a_launcher(segmentor, failure, monkeypatch):
    """As if this process were one of several: it does not train alone."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    options = ["--cfg-options", "train_cfg.type=Nonsense", "--device", "cuda:0"]
    line = failure(*segmentor, *options)
    assert "a distributed run gives each process its own GPU" in line


def test_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("mmengine.runner.runner.time.strftime", lambda *_: "20260101_000000")
    made = [Runner(torch.nn.Identity(), str(tmp_path), cfg={"device": "cpu"}) for _ in range(2)]
    assert len({one.log_dir for one in made}) == 2
