"""Which device a run uses."""

from __future__ import annotations

import os
import re

import torch
from mmengine.device import get_device

from swin_dense.errors import UserError


def choose_device(name: str = "auto", launcher: str = "none") -> torch.device:
    """The device that ``--device`` names; a GPU becomes the current one.

    Args:
        name: 'auto' (what mmengine finds, a GPU before the CPU), 'cpu', 'cuda' or 'cuda:N'.
        launcher: how the processes of a distributed run were started; each takes its own GPU.

    Raises:
        UserError: the name is none of these, or this machine has no such device.
    """
    if name == "auto":
        name = get_device()
    elif name != "cpu" and not re.fullmatch(r"cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N")
    if not name.startswith("cuda"):
        return torch.device(name)
    _check_gpu(name)
    device = torch.device(name)
    if launcher != "none":
        if device.index is not None:
            raise UserError(f"--device {name}: a distributed run gives each process its own GPU")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        _check_gpu(str(device))
    if device.index is not None:
        torch.cuda.set_device(device)
    return torch.device("cuda")


def _check_gpu(name: str) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UserError(f"no device {name!r}: this machine shows no GPU, use --device cpu")
    if (index := torch.device(name).index or 0) >= count:
        raise UserError(
            f"no device {name!r}: this machine has cuda:0 to cuda:{count - 1}; {index=}"
        )
