"""mmengine's checkpoints: the types in them that are safe to read, and mmengine's own loader.

Since PyTorch 2.6 ``torch.load`` refuses every type that it does not know, among them those that
mmengine's checkpoints hold: log histories and numpy scalars. Exactly these are allow-listed here,
for :func:`swin_dense.checkpoints.load_checkpoint` and for mmengine's loader alike.
"""

import functools
import pickle
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from swin_dense.checkpoints.files import load_checkpoint

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


def allow_mmengine_types() -> None:
    """Let ``torch.load(weights_only=True)`` read the checkpoints that mmengine writes.

    Allowed are ``HistoryBuffer`` (and its four methods, not ``getattr``), numpy arrays, and numpy
    scalars of boolean, integer, real and text types. Nothing on the list runs code that a file
    brings with it.
    """
    # What numpy itself pickles arrays and scalars with, in whichever package it keeps them.
    rebuild = {"_reconstruct": np.zeros(1).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    types: list[Any] = [
        HistoryBuffer,
        (_history_statistic, "builtins.getattr"),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(code)) for code in "?bhilqBHILQefdU"),
        # A file names the package of the numpy that wrote it.
        *(
            (function, f"numpy.{core}.multiarray.{name}")
            for core in ("core", "_core")
            for name, function in rebuild.items()
        ),
    ]
    torch.serialization.add_safe_globals(types)


def patch_mmengine_loader() -> None:
    """Make mmengine check what it downloads, and read local ``.safetensors`` files.

    For URLs mmengine calls ``torch.hub``'s function, which has ``weights_only=False`` by default.
    """
    from mmengine.runner import checkpoint

    if not isinstance(checkpoint.load_url, functools.partial):
        vars(checkpoint)["load_url"] = functools.partial(checkpoint.load_url, weights_only=True)

    def load_local(filename: str, map_location: Any = None) -> dict[str, Any]:
        if str(filename).endswith(".safetensors"):
            return load_checkpoint(filename, map_location or "cpu")
        return checkpoint.load_from_local(filename, map_location)

    checkpoint.CheckpointLoader.register_scheme(prefixes="", loader=load_local, force=True)
