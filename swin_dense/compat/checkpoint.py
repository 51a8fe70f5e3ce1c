"""mmengine's checkpoints: the types in them that are safe to read, and mmengine's own loader.

A checkpoint of mmengine holds log histories and numpy scalars beside weights. Exactly these are
allowed here, for :func:`swin_dense.checkpoints.load_checkpoint`, which mmengine then uses too: its
own loader runs code from files before PyTorch 2.6, and that of its fork onedl-mmengine always.
"""

import pickle
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from swin_dense.checkpoints.contents import REBUILD, BadContentError
from swin_dense.checkpoints.files import ALLOWED, allow_in_torch, load_checkpoint, local_file

_STATISTICS = ("min", "max", "current", "mean")
# Own methods to which the states of these refer.
_METHODS: dict[type, tuple[str, ...]] = {HistoryBuffer: _STATISTICS}


def _own_method(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, by which the state of an object refers to its own methods.

    The real one would give a malicious file access to everything in the process.
    """
    if not isinstance(owner, type) or name not in _METHODS.get(owner, ()):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL getattr of {name!r}")
    return getattr(owner, name)


def _rebuilt_history(stored: HistoryBuffer) -> HistoryBuffer:
    """A history with the numbers of the stored one; its methods, which files name, are its own."""
    for name in _STATISTICS:  # unpickling sets those of the class
        HistoryBuffer._statistics_methods[name] = getattr(HistoryBuffer, name)
    try:
        values, counts = (np.asarray(one, dtype=float) for one in stored.data)
        if values.ndim != 1 or values.shape != counts.shape or type(stored.max_length) is not int:
            raise ValueError
        return HistoryBuffer(*stored.data, max(stored.max_length, 1))  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError) as error:
        raise BadContentError("has a damaged history of a logged value") from error


def allow_mmengine_types() -> None:
    """Let :func:`~swin_dense.checkpoints.load_checkpoint` read the checkpoints of mmengine.

    And ``torch.load``, where it has a list of what it may read. Allowed are ``HistoryBuffer`` (and
    its four methods, not ``getattr``), the curve of a one-cycle schedule, numpy arrays, and numpy
    scalars of boolean, integer, real and text types. Nothing on the list runs code that a file
    brings with it.
    """
    # Not at the top: what it imports is deferred, by then, where it takes long.
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    _METHODS[OneCycleParamScheduler] = ("_annealing_cos", "_annealing_linear")
    for owner in _METHODS:
        ALLOWED[f"{owner.__module__}.{owner.__name__}"] = owner
    ALLOWED["builtins.getattr"] = _own_method
    REBUILD[HistoryBuffer] = _rebuilt_history
    allow_in_torch()


def _load(file: Any, map_location: Any = None, **_: Any) -> dict[str, Any]:
    """In place of ``torch.load``; whatever it is asked for, it runs no code."""
    return load_checkpoint(file, map_location or "cpu")


def _load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    return _load(filename, map_location)


def _load_url(url: str, model_dir: str | None = None, map_location: Any = None, **_: Any) -> Any:
    return _load(local_file(url, folder=model_dir), map_location)


class _TorchWithSafeLoad(ModuleType):
    """``torch`` for one module, with another ``load``."""

    load = staticmethod(_load)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def patch_mmengine_loader() -> None:
    """Make mmengine read every checkpoint, local or downloaded, by :func:`load_checkpoint`."""
    from mmengine.runner import checkpoint

    _load_from_local.__name__ = "load_from_local"  # mmengine logs what follows "load_from_"
    checkpoint.CheckpointLoader.register_scheme("", _load_from_local, force=True)
    vars(checkpoint)["load_url"] = _load_url
    # For files of other origins, and for mmengine's own functions if they are called by name.
    vars(checkpoint)["torch"] = _TorchWithSafeLoad("torch")
