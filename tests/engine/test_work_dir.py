"""A work dir: its lock, its log folders, and the checkpoint from which its training continues."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swin_dense.engine.work_dir import (
    find_checkpoint,
    lock_work_dir,
    new_log_folder,
    remove_run,
    take_new_work_dir,
)
from swin_dense.errors import UserError
from swin_dense.files import link_file

HOLD = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX)
os.write(file, sys.argv[2].encode())
print("held", flush=True)
sys.stdin.read()
"""


def save(work_dir: Path, name: str, done: int, time: str, **more) -> str:
    work_dir.mkdir(exist_ok=True)
    content = {"meta": {"iter": done, "epoch": 0, "time": time}, "optimizer": {}, **more}
    torch.save({"state_dict": {"w": torch.zeros(9)}, "message_hub": {}, **content}, work_dir / name)
    return str(work_dir / name)


@pytest.fixture
def work_dir(tmp_path) -> Path:
    """Two checkpoints, of which the first is named; a best one; and one of an earlier run."""
    folder = tmp_path / "w"
    save(folder, "iter_8.pth", 8, "20260102_000009")
    save(folder, "iter_4.pth", 4, "20260102_000004")
    save(folder, "iter_99.pth", 99, "20260101_000000")
    save(folder, "best_mIoU_iter_9.pth", 9, "20260102_000010")
    (folder / "last_checkpoint").write_text("iter_8.pth")
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def test_the_named_checkpoint_is_taken(work_dir, capsys):
    assert find_checkpoint(work_dir) == str(work_dir / "iter_8.pth")
    (work_dir / "last_checkpoint").write_text("iter_4.pth\n")
    assert find_checkpoint(work_dir) == str(work_dir / "iter_4.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", ["", "/w/ite", ".", "iter_9.pth", "\0\0\0", None])
def test_a_torn_name_is_no_loss(work_dir, capsys, content):
    if content is None:
        (work_dir / "last_checkpoint").unlink()
    else:
        (work_dir / "last_checkpoint").write_text(content)
    assert find_checkpoint(work_dir) == str(work_dir / "iter_8.pth")
    assert "last_checkpoint names no file that is there" in capsys.readouterr().out


def test_a_torn_checkpoint_gives_way_to_the_newest_that_can_be_read(work_dir, capsys):
    cut(work_dir / "iter_8.pth")
    assert find_checkpoint(work_dir) == str(work_dir / "iter_4.pth")
    out = capsys.readouterr().out
    assert out.startswith(f"warning: continuing from {work_dir / 'iter_4.pth'}, as ")
    assert out.count("\n") == 1
    assert "iter_8.pth is cut off" in out
    cut(work_dir / "iter_4.pth")
    assert find_checkpoint(work_dir) == str(work_dir / "iter_99.pth"), "of the earlier run"
    cut(work_dir / "iter_99.pth")
    with pytest.raises(UserError, match=r"nothing to resume, as .*iter_8\.pth is cut off"):
        find_checkpoint(work_dir)


def test_a_copied_or_moved_folder_continues_from_its_own_files(work_dir, tmp_path):
    (work_dir / "last_checkpoint").write_text(str(work_dir / "iter_8.pth"))  # as mmengine writes it
    copy = tmp_path / "copy"
    shutil.copytree(work_dir, copy)
    assert find_checkpoint(copy) == str(copy / "iter_8.pth")
    (copy / "iter_8.pth").unlink()
    assert find_checkpoint(copy) == str(copy / "iter_4.pth")
    shutil.rmtree(work_dir)
    assert find_checkpoint(copy) == str(copy / "iter_4.pth")


def test_checkpoints_in_another_folder(tmp_path):
    other = save(tmp_path / "out", "iter_4.pth", 4, "20260102_000004")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "last_checkpoint").write_text(other)
    assert find_checkpoint(tmp_path / "w") == other
    (tmp_path / "w" / "last_checkpoint").write_text("s3://bucket/iter_4.pth")
    assert find_checkpoint(tmp_path / "w") == "s3://bucket/iter_4.pth"


def test_nothing_to_continue_from(tmp_path):
    assert find_checkpoint(tmp_path / "none") is None
    torch.save({"state_dict": {}}, tmp_path / "pretrained.pth")  # nothing that was trained here
    assert find_checkpoint(tmp_path) is None


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path``, with a note."""
    started = []

    def start(**note) -> subprocess.Popen:
        words = [sys.executable, "-c", HOLD, str(tmp_path / ".lock"), json.dumps(note)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_one_training_at_a_time(holder, tmp_path):
    process = holder(process=123, host="node7")
    with pytest.raises(UserError, match=r"process 123 on node7\).* another --work-dir"):
        lock_work_dir(tmp_path).__enter__()
    process.kill()
    process.wait()
    with lock_work_dir(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    with lock_work_dir(tmp_path):
        pass


@pytest.mark.parametrize(
    ("note", "variables"),
    [
        (
            {"job": "7.0", "restarts": 0},
            {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "1"},
        ),
        ({"job": "train-7"}, {"TORCHELASTIC_RUN_ID": "train-7"}),
    ],
)
def test_a_job_that_is_started_again_on_another_node_takes_over(
    holder, tmp_path, monkeypatch, capsys, note, variables
):
    holder(process=123, host="node7", **note)
    with pytest.raises(UserError):
        lock_work_dir(tmp_path).__enter__()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with lock_work_dir(tmp_path):
        assert "taking over" in capsys.readouterr().out


def test_a_job_does_not_take_over_from_itself(holder, tmp_path, monkeypatch):
    holder(process=123, host="node7", job="7.0", restarts=1)
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(UserError, match="node7"):
        lock_work_dir(tmp_path).__enter__()


def test_runs_get_numbered_folders(holder, tmp_path):
    """After the last one that has a run, or in which one trains; what has none is taken."""
    first = tmp_path / "w"
    with take_new_work_dir(first) as taken:
        assert taken == str(first)
        save(first, "epoch_1.pth", 3, "20260101_000000")
    (tmp_path / "w_other").mkdir()
    with take_new_work_dir(first) as taken:
        assert taken == str(tmp_path / "w_2")
    save(tmp_path / "w_4", "iter_1.pth", 3, "20260101_000000")
    with take_new_work_dir(f"{first}/") as taken:
        assert taken == str(tmp_path / "w_5")
    save(tmp_path, "best_acc_epoch_1.pth", 3, "20260101_000000")
    shutil.rmtree(first)
    with take_new_work_dir(first) as taken:
        assert taken == str(first), "it is what was asked for"


def test_a_folder_in_which_a_training_runs_is_not_taken(holder, tmp_path):
    holder(process=123, host="node7")
    with take_new_work_dir(tmp_path) as taken:
        assert taken == f"{tmp_path}_2"


def test_what_the_user_put_into_a_folder_stays(work_dir):
    for name in ("20260101_000000", "20260101_000000_2", "20260103_000000", "predictions"):
        (work_dir / name).mkdir()
    for name in ("20260101_000000/old.py", "old.py", "mine.py", "backbone.pth", "notes.txt"):
        (work_dir / name).touch()
    link_file(work_dir / "iter_8.pth", work_dir / "last.pth")
    remove_run(work_dir, kept="20260103_000000")
    left = {path.name for path in work_dir.iterdir()}
    assert left == {"20260103_000000", "predictions", "mine.py", "backbone.pth", "notes.txt"}


def test_log_folders_are_not_shared(tmp_path):
    names = [new_log_folder(tmp_path, "20260101_000000") for _ in range(3)]
    assert names == ["20260101_000000", "20260101_000000_2", "20260101_000000_3"]
    assert sorted(os.listdir(tmp_path)) == names
