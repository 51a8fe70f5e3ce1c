"""Where a run computes: its device, and the processes of a distributed run."""

import os
import re
from collections.abc import Callable
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, init_dist, is_distributed, is_main_process

from swin_dense.errors import UserError

# For each launcher: a variable that it sets, and how it is started.
_LAUNCHERS = {
    "pytorch": ("RANK", "torchrun --nproc-per-node N tools/train.py ... --launcher pytorch"),
    "slurm": ("SLURM_PROCID", "srun python tools/train.py ... --launcher slurm"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "mpirun -np N python tools/train.py ... --launcher mpi"),
}


class OtherProcessError(UserError):
    """A user error that the first process reports; the other processes only stop."""

    is_shown = False


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

    Raises:
        UserError: this process was not started by that launcher.
    """
    launcher = cfg.get("launcher", "none")
    if launcher == "none" or is_distributed():
        return
    variable, how = _LAUNCHERS[launcher]
    if variable not in os.environ:
        raise UserError(f"--launcher {launcher} needs processes started by it: {how}")
    dist_cfg = dict(cfg.get("env_cfg", {}).get("dist_cfg", {}))
    if cfg.device != "cpu":
        init_dist(launcher, **dist_cfg)
        return
    if launcher == "slurm":
        raise UserError("--launcher slurm needs GPUs: start CPU processes with torchrun")
    # mmengine's init_dist selects a CUDA device, which a machine without one cannot do.
    if launcher == "mpi":
        if "MASTER_ADDR" not in os.environ:
            raise UserError("--launcher mpi needs the environment variable MASTER_ADDR")
        # Variables that torchrun would have set.
        for name in ("RANK", "LOCAL_RANK"):
            os.environ.setdefault(name, os.environ[f"OMPI_COMM_WORLD_{name}"])
        os.environ.setdefault("WORLD_SIZE", os.environ["OMPI_COMM_WORLD_SIZE"])
        os.environ.setdefault("MASTER_PORT", "29500")
    seconds = dist_cfg.get("timeout", 1800)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=seconds))


def on_first_process(action: Callable[[], object]) -> None:
    """Runs ``action`` on the first process while the others wait; its user error stops them all.

    Raises:
        UserError: as raised by ``action``; on the other processes an OtherProcessError.
    """
    error: UserError | None = None
    if is_main_process():
        try:
            action()
        except UserError as raised:
            error = raised
    message = [str(error) if error else None]
    broadcast_object_list(message)
    if error is not None:
        raise error
    if message[0]:
        raise OtherProcessError(message[0])
