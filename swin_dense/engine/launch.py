"""Where a run computes: its device, and the processes of a distributed run."""

import atexit
import os
import re
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, init_dist, is_distributed, is_main_process

from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError

# What torchrun tells each process, and what other launchers call it.
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_NAMES = {
    "pytorch": _TORCHRUN,
    "slurm": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
}
_HOW = {
    "pytorch": "torchrun --nproc-per-node N tools/train.py ... --launcher pytorch",
    "slurm": "srun python tools/train.py ... --launcher slurm",
    "mpi": "mpirun -np N python tools/train.py ... --launcher mpi",
}


class OtherProcessError(UserError):
    """A user error that the first process reports; the other processes only stop."""

    is_shown = False


def find_launcher(launcher: str) -> str:
    """The launcher that the user named, or torchrun if that started several processes."""
    started = all(name in os.environ for name in _TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1
    if launcher != "none" or not started or is_distributed():
        return launcher
    notify_user("torchrun started several processes: training and testing with --launcher pytorch")
    return "pytorch"


def adopt_process(launcher: str) -> None:
    """Gives a process that Slurm or MPI started the variables that torchrun would have set.

    Raises:
        UserError: this process was not started by that launcher, or the address of the first
            process is unknown.
    """
    if launcher == "none":
        return
    if any(name not in os.environ for name in _NAMES[launcher]):
        raise UserError(f"--launcher {launcher} needs processes started by it: {_HOW[launcher]}")
    for name, theirs in zip(_TORCHRUN, _NAMES[launcher], strict=True):
        os.environ[name] = os.environ[theirs]
    if launcher == "pytorch" and _restarts_in_one_store():
        notify_user(
            "warning: restarted processes may wait for those before them: start torchrun with "
            "--rdzv-backend c10d and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
        )
    if launcher == "slurm":
        if torch.cuda.device_count() == 1:  # srun --gpus-per-task=1 shows each task its own alone
            os.environ["LOCAL_RANK"] = "0"
        if "MASTER_ADDR" not in os.environ:
            os.environ["MASTER_ADDR"] = _first_node()
        # Not the same for all: two jobs may share a node. Ports from 32768 are the system's.
        os.environ.setdefault("MASTER_PORT", str(10000 + int(os.environ["SLURM_JOB_ID"]) % 20000))
    if launcher == "mpi":
        if "MASTER_ADDR" not in os.environ:
            raise UserError("--launcher mpi needs the environment variable MASTER_ADDR")
        os.environ.setdefault("MASTER_PORT", "29500")


def _restarts_in_one_store() -> bool:
    """Whether torchrun may restart processes, and these then meet where the first ones met.

    They may read addresses of these: https://github.com/pytorch/pytorch/issues/135712.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return shared and continues_by_itself("pytorch")


def _first_node() -> str:
    """The name of the node of a Slurm job step's first task."""
    command = ["scontrol", "show", "hostnames", os.environ.get("SLURM_STEP_NODELIST", "")]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(
            "--launcher slurm cannot find the first node by `scontrol show hostnames`: set "
            "MASTER_ADDR to its address"
        ) from error


def continues_by_itself(launcher: str) -> bool:
    """Whether a training that was stopped is started again, and so continues where it was.

    That is the case with ``torchrun --max-restarts N``, from the start: only the agent whose worker
    failed counts a restart, and an agent that replaces another has counted none. In a job that
    Slurm put into its queue again, all tasks know.
    """
    name = {"pytorch": "TORCHELASTIC_MAX_RESTARTS", "slurm": "SLURM_RESTART_COUNT"}.get(launcher)
    return name is not None and os.environ.get(name, "0") != "0"


def choose_device(name: str = "auto", launcher: str = "none") -> torch.device:
    """The device that ``--device`` names; a GPU becomes the current one.

    'auto' is a GPU if there is one. With a launcher each process takes its own GPU.

    Raises:
        UserError: the name is none of these, or this machine has no such device.
    """
    if name == "auto":
        name = get_device()
    elif name != "cpu" and not re.fullmatch(r"cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N")
    if not name.startswith("cuda"):
        return torch.device(name)
    if launcher != "none":
        if name != "cuda":
            raise UserError(f"--device {name}: a distributed run gives each process its own GPU")
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    device = torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UserError(f"no device {name!r}: this machine shows no GPU, use --device cpu")
    if device.index is not None:
        if device.index >= count:
            raise UserError(f"no device {name!r}: this machine has cuda:0 to cuda:{count - 1}")
        torch.cuda.set_device(device)
    return torch.device("cuda")


def init_distributed(cfg: Config) -> None:
    """Joins the process group of ``cfg.launcher``: gloo if ``cfg.device`` is 'cpu', else NCCL.

    ``cfg.env_cfg.dist_cfg`` keeps its other settings (such as the timeout).
    """
    if cfg.get("launcher", "none") == "none" or is_distributed():
        return
    dist_cfg = dict(cfg.get("env_cfg", {}).get("dist_cfg", {}))
    if cfg.device != "cpu":
        init_dist("pytorch", **dist_cfg)  # of all launchers, see adopt_process
        return
    # mmengine's init_dist selects a CUDA device, which a machine without one cannot do.
    seconds = dist_cfg.get("timeout", 1800)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=seconds))
    # Gloo's threads need Python's lock to free the tensors of the last collective, and end the
    # process with SIGABRT if Python is gone by then: a pause lets them have it first.
    atexit.register(time.sleep, 0.1)


def on_first_process(action: Callable[[], object]) -> None:
    """Runs ``action`` on the first process while the others wait; its error stops them all.

    That is a user error, or one of a disk.

    Raises:
        UserError: as raised by ``action``; on the other processes an OtherProcessError.
    """
    error: UserError | OSError | None = None
    if is_main_process():
        try:
            action()
        except (UserError, OSError) as raised:
            error = raised
    message = [str(error) if error else None]
    broadcast_object_list(message)
    if error is not None:
        raise error
    if message[0]:
        raise OtherProcessError(message[0])
