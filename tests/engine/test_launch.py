"""Where a run computes, and how its processes start, meet and end."""

import os

import pytest
import torch

from swin_dense.engine.launch import adopt_process, choose_device, on_first_process
from swin_dense.errors import UserError


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "", "CPU"])
def test_unknown_devices_raise(name):
    with pytest.raises(UserError, match="unknown device"):
        choose_device(name)


def test_available_devices():
    assert choose_device("cpu").type == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    with pytest.raises(UserError, match="cuda:99"):
        choose_device("cuda:99")


@pytest.mark.parametrize(
    ("launcher", "names"),
    [
        ("slurm", ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")),
        ("mpi", ("RANK", "LOCAL_RANK", "SIZE")),
    ],
)
def test_other_launchers_are_as_torchrun(monkeypatch, launcher, names):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=f"--launcher {launcher} needs processes"):
        adopt_process(launcher)
    prefix = "OMPI_COMM_WORLD_" if launcher == "mpi" else ""
    for value, name in enumerate(names, start=3):
        monkeypatch.setenv(prefix + name, str(value))
    monkeypatch.setenv("SLURM_JOB_ID", "90007")
    monkeypatch.setenv("PATH", "")  # no scontrol
    with pytest.raises(UserError, match="MASTER_ADDR"):
        adopt_process(launcher)
    monkeypatch.setenv("MASTER_ADDR", "node1")
    adopt_process(launcher)
    found = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")]
    assert found == ["3", "4", "5", "node1"]
    assert 10000 <= int(os.environ["MASTER_PORT"]) < 32768


def test_a_task_that_sees_its_own_gpu_only_takes_it(monkeypatch):
    """As with ``srun --gpus-per-task=1``."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_JOB_ID", "MASTER_ADDR"):
        monkeypatch.setenv(name, "2")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "to be restored")
    adopt_process("slurm")
    assert os.environ["LOCAL_RANK"] == "0"
    assert os.environ["RANK"] == "2"


def test_errors_of_the_first_process_are_raised():
    def fail():
        raise UserError("how to fix it")

    with pytest.raises(UserError, match="how to fix it"):
        on_first_process(fail)


_WORK_TO_THE_END = """
import sys, time
import torch
from mmengine.config import Config
from swin_dense.engine.launch import init_distributed

init_distributed(Config({"launcher": "pytorch", "device": "cpu"}))
sys.setswitchinterval(100)  # no other thread gets Python's lock while this one computes
torch.distributed.all_reduce(torch.ones(1), async_op=True)
end = time.monotonic() + 0.1
while time.monotonic() < end:
    pass
"""


def test_a_process_ends_in_peace_after_its_last_collective(python):
    """It was aborted if one of Gloo's threads had not yet freed the tensors."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "1", "RANK": "0"}
    python("-c", _WORK_TO_THE_END, **where)
