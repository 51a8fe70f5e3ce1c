"""What is wrapped around weights in a file, and taking it off."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from swin_dense.checkpoints.layouts import State

# Weights averaged over training are preferred: they are what their authors evaluate. mmengine is
# the exception that proves it: it stores the averages as state_dict, what was trained as
# ema_state_dict, so that the latter counts only where it is alone.
_ENTRIES = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
    "model_state_dict",
    "module",
    "net",
    "ema_state_dict",
    "teacher",
    "student",
)


def weights_of(checkpoint: Mapping[str, Any]) -> State:
    """The tensors of a checkpoint, from within all entries that are wrapped around them."""
    entry = _entry(checkpoint)
    while entry is not None:
        checkpoint = checkpoint[entry]
        entry = _entry(checkpoint)
    state = OrderedDict((k, v) for k, v in checkpoint.items() if isinstance(v, Tensor))
    if hasattr(checkpoint, "_metadata"):  # torch's notes on the versions of modules
        state._metadata = checkpoint._metadata  # type: ignore[attr-defined]
    return state


def strip_prefixes(state: Mapping[str, Tensor]) -> State:
    """Take ``module.`` off, and keep what is below ``backbone.`` where there is such."""
    bare = {key.removeprefix("module."): value for key, value in state.items()}
    below = {
        key.removeprefix("backbone."): value
        for key, value in bare.items()
        if key.startswith("backbone.")
    }
    return below or bare


def _entry(checkpoint: Mapping[str, Any]) -> str | None:
    for name in _ENTRIES:
        if isinstance(checkpoint.get(name), Mapping) and checkpoint[name]:
            return name
    return None
