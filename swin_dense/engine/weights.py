"""Putting the weights of a checkpoint into a model, or saying why they do not fit."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

from mmengine.model import BaseTTAModel
from torch import nn

from swin_dense.engine.terminal import say
from swin_dense.errors import UserError

_STATISTICS = ("running_mean", "running_var")
_SIZE_MISMATCH = re.compile(r"size mismatch for (\S+?): ")


def load_weights(
    model: nn.Module,
    checkpoint: Mapping,
    source: str,
    exact: bool = True,
    revise_keys: list[tuple[str, str]] | None = None,
) -> None:
    """Loads ``checkpoint['state_dict']`` (or the checkpoint itself) into the model.

    Args:
        model: a detector, a segmentor, or either wrapped for test-time augmentation.
        checkpoint: as read from a file.
        source: the file's name, for messages.
        exact: every parameter and batch norm statistic of the model must be there; otherwise
            some may be missing, which is said, but not all.
        revise_keys: regular expressions and their replacements in the names of the weights.

    Raises:
        UserError: the weights are of another model.
    """
    if isinstance(model, BaseTTAModel):
        model = model.module
    state = _revised(checkpoint.get("state_dict", checkpoint), revise_keys or [])
    needed = _needed_names(model)
    mismatched = _load_fitting(model, state)
    absent = [name for name in needed if name in mismatched.missing]
    wrong = [name for name in needed if name in mismatched.sizes]
    bad = absent + wrong
    if not bad:
        return
    problem = _describe(bad, wrong, len(needed))
    if exact or len(bad) == len(needed):
        raise UserError(
            f"checkpoint {source} is of another model: {problem}; give the config it was "
            "trained with"
        )
    say(f"{source}: {problem}; these start untrained")


class _Mismatch:
    def __init__(self, missing: set[str], sizes: set[str]) -> None:
        self.missing, self.sizes = missing, sizes


def _load_fitting(model: nn.Module, state: Mapping) -> _Mismatch:
    """Loads what fits; torch loads the rest of the weights before it reports wrong sizes."""
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        sizes = set(_SIZE_MISMATCH.findall(str(error)))
        if not sizes:
            raise
        rest = OrderedDict((k, v) for k, v in state.items() if k not in sizes)
        missing = set(model.load_state_dict(rest, strict=False).missing_keys) - sizes
        return _Mismatch(missing, sizes)
    return _Mismatch(set(result.missing_keys), set())


def _needed_names(model: nn.Module) -> list[str]:
    """Parameters and batch norm statistics; other buffers follow from the architecture."""
    names = [name for name, _ in model.named_parameters()]
    return names + [name for name, _ in model.named_buffers() if name.endswith(_STATISTICS)]


def _describe(bad: list[str], wrong: list[str], total: int) -> str:
    kind = "of another size" if len(wrong) == len(bad) else "missing"
    if wrong and len(wrong) < len(bad):
        kind = "missing or of another size"
    return f"{len(bad)} of {total} parameters {kind}, first {bad[0]}"


def _revised(state: Mapping, revise_keys: list[tuple[str, str]]) -> Mapping:
    """The state dict with renamed weights; torch's version metadata stays with it."""
    renamed = OrderedDict()
    for key, value in state.items():
        for pattern, replacement in revise_keys:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    if hasattr(state, "_metadata"):
        renamed._metadata = state._metadata  # type: ignore[attr-defined]
    return renamed
