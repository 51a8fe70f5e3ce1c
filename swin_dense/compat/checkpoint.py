"""Reading checkpoints without running code from them.

Since PyTorch 2.6 ``torch.load`` refuses every type that it does not know, among them those that
mmengine's own checkpoints hold: log histories and numpy scalars. Here exactly these are
allow-listed, for our own loader as for mmengine's, which calls ``torch.load`` as it is.
"""

import functools
import pickle
import re
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from swin_dense.errors import UserError

_STATISTICS = ("min", "max", "current", "mean")


def _history_statistic(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, by which a HistoryBuffer's state refers to its own methods.

    The real one would give a malicious file access to everything in the process.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(
            f"Unsupported global: GLOBAL getattr of {name!r}, not a statistic of HistoryBuffer"
        )
    return getattr(HistoryBuffer, name)


def _mmengine_types() -> list[Any]:
    # What numpy itself pickles arrays and scalars with, in whichever package it keeps them.
    rebuild = {"_reconstruct": np.zeros(1).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    scalar_types = [type(np.dtype(code)) for code in "?bhilqBHILQefdU"]
    return [
        HistoryBuffer,
        (_history_statistic, "builtins.getattr"),
        np.ndarray,
        np.dtype,
        *scalar_types,
        # A file names the package of the numpy that wrote it.
        *(
            (function, f"numpy.{core}.multiarray.{name}")
            for core in ("core", "_core")
            for name, function in rebuild.items()
        ),
    ]


def allow_mmengine_types() -> None:
    """Let ``torch.load(weights_only=True)`` read the checkpoints that mmengine writes.

    Allowed are ``HistoryBuffer`` (and its four methods, not ``getattr``), numpy arrays, and numpy
    scalars of boolean, integer, real and text types. Nothing on the list runs code that a file
    brings with it.
    """
    torch.serialization.add_safe_globals(_mmengine_types())


def check_downloads() -> None:
    """Make mmengine read the checkpoints that it downloads with ``weights_only=True``.

    ``torch.hub``'s function, which mmengine calls for URLs, has False for its default.
    """
    from mmengine.runner import checkpoint

    if not isinstance(checkpoint.load_url, functools.partial):
        vars(checkpoint)["load_url"] = functools.partial(checkpoint.load_url, weights_only=True)


def read_safetensors_too() -> None:
    """Make mmengine read local ``.safetensors`` files, wherever it reads ``.pth`` files."""
    from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

    def load_from_local_file(filename: str, map_location: Any = None) -> dict[str, Any]:
        if str(filename).endswith(".safetensors"):
            return load_checkpoint(filename, map_location or "cpu")
        return load_from_local(filename, map_location)

    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local_file, force=True)


def load_checkpoint(
    file: str | PathLike[str] | IO[bytes], map_location: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Read a ``.pth`` or ``.safetensors`` file without running code from it.

    Args:
        file: a path, or an open binary file.
        map_location: where the tensors go.

    Returns:
        The dict that the file holds.

    Raises:
        UserError: there is no such file; it is empty, cut off or not a checkpoint; it asks for
            types outside the allow-list; it holds something other than a dict; the device is
            unknown.
    """
    name = str(file) if isinstance(file, (str, PathLike)) else getattr(file, "name", "checkpoint")
    device = _device(map_location)
    try:
        if isinstance(file, (str, PathLike)):
            with Path(file).expanduser().open("rb") as opened:
                return _read(opened, name, device)
        return _read(file, name, device)
    except FileNotFoundError:
        raise UserError(f"no such checkpoint: {name}") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot read the checkpoint {name}: {reason}; give a .pth file") from None


def _device(map_location: str | torch.device) -> torch.device:
    try:
        return torch.device(map_location)
    except RuntimeError:
        raise UserError(f"unknown device '{map_location}': give cpu, cuda or cuda:N") from None


def _read(file: IO[bytes], name: str, device: torch.device) -> dict[str, Any]:
    start = file.tell()
    head = file.read(64)
    file.seek(start)
    if not head:
        raise UserError(f"{name} is empty: download or copy it again")
    if head[8:9] == b"{":  # after the length of the header
        return _read_safetensors(file.read(), name, device)
    try:
        content = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # bytes that are no checkpoint make torch.load raise almost anything
        raise UserError(f"{name} {_complaint(error, head)}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{name} holds a {type(content).__name__}, not a dict of weights: "
            "save the model's state_dict() and give that"
        )
    return content


def _read_safetensors(content: bytes, name: str, device: torch.device) -> dict[str, Any]:
    try:
        state = safetensors.torch.load(content)
    except safetensors.SafetensorError:
        reason = "is cut off or is not a safetensors file: download or copy it again"
        raise UserError(f"{name} {reason}") from None
    return {key: value.to(device) for key, value in state.items()}


def _complaint(error: Exception, head: bytes) -> str:
    """What is wrong with the file and what to do, from torch.load's error and the first bytes."""
    message = str(error)
    if head.lstrip().startswith(b"<"):
        return "is a web page, not a checkpoint: download the file itself"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not a checkpoint: run git lfs pull"
    if "deserialize object on" in message:
        return "cannot be put on that device, which is not there: give cpu"
    if forbidden := re.search(r"GLOBAL (getattr|[\w.]*\w)", message):
        return (
            f"asks for {forbidden[1]}, which a checkpoint of weights has no need of: it may be "
            "malicious and was not read; ask its author for the state_dict() alone"
        )
    return "is cut off or is not a PyTorch checkpoint: download or copy it again"
