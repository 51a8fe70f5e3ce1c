"""Starting the processes of a distributed run, and doing a thing on the first of them only."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_dist_info, init_dist, is_distributed

from swin_dense.errors import UserError


class OtherProcessError(UserError):
    """A user error that the first process has found and reports; the others just stop."""


def init_distributed(cfg: Config, device: torch.device) -> None:
    """Joins the process group when ``cfg.launcher`` names a launcher: NCCL on GPUs, gloo on CPUs.

    ``cfg.env_cfg.dist_cfg`` keeps its other settings (the time-out, for one).

    Raises:
        UserError: this process was not started by that launcher.
    """
    launcher = cfg.get("launcher", "none")
    if launcher == "none" or is_distributed():
        return
    _check_launcher(launcher)
    dist_cfg = dict(cfg.get("env_cfg", {}).get("dist_cfg", {}))
    if device.type != "cpu":
        init_dist(launcher, **dist_cfg)
        return
    if launcher == "slurm":
        raise UserError("--launcher slurm needs GPUs: start CPU processes with torchrun")
    # mmengine's init_dist selects a CUDA device, which a machine without one cannot do.
    if launcher == "mpi":
        _export_mpi_rank()
    seconds = dist_cfg.get("timeout", 1800)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=seconds))


def on_first_process(action: Callable[[], object]) -> None:
    """Runs ``action`` on the first process while the others wait; its user error stops them all.

    Raises:
        UserError: as raised by ``action``; on the other processes an OtherProcessError.
    """
    rank, world_size = get_dist_info()
    error: UserError | None = None
    if rank == 0:
        try:
            action()
        except UserError as raised:
            error = raised
    if world_size > 1:
        message = [str(error) if error else None]
        broadcast_object_list(message)
        if rank > 0 and message[0]:
            raise OtherProcessError(message[0])
    if error is not None:
        raise error


def _check_launcher(launcher: str) -> None:
    variable, how = {
        "pytorch": ("RANK", "torchrun --nproc-per-node N tools/train.py ... --launcher pytorch"),
        "slurm": ("SLURM_PROCID", "srun python tools/train.py ... --launcher slurm"),
        "mpi": ("OMPI_COMM_WORLD_RANK", "mpirun -np N python tools/train.py ... --launcher mpi"),
    }[launcher]
    if variable not in os.environ:
        raise UserError(f"--launcher {launcher} needs processes started by it: {how}")


def _export_mpi_rank() -> None:
    """Gives torch.distributed the environment variables that torchrun would have set."""
    for name in ("RANK", "LOCAL_RANK"):
        os.environ.setdefault(name, os.environ[f"OMPI_COMM_WORLD_{name}"])
    os.environ.setdefault("WORLD_SIZE", os.environ["OMPI_COMM_WORLD_SIZE"])
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        raise UserError("--launcher mpi needs the environment variable MASTER_ADDR")
