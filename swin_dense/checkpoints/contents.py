"""What may be in a checkpoint: plain data and finite weights, checked once, when it is read.

:func:`as_plain` copies all that a file holds, but for the numbers, into containers of our own, so
that later code meets no container that holds itself, no attributes that a file has set, no tensors
without numbers in memory, and no configs, which OpenMMLab would run as Python.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from swin_dense.errors import UserError

# What allowed types beside those of Python and PyTorch are made anew with, by type.
REBUILD: dict[type, Callable[[Any], Any]] = {}

_CONTAINERS = (dict, list, tuple)
_NOT_OURS = "give a checkpoint as trainings save it, or the state_dict() of a model alone"
_MOST_LEVELS = 50
# A file may say that a tensor repeats its numbers; so many more bytes than it has are allowed.
_MOST_REPEATED = 2**26


@contextmanager
def as_shape_error() -> Iterator[None]:
    """Makes a user error of what converting weights raises if some have shapes that no Swin has."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"these weights cannot be converted, some are of shapes that no Swin has ({reason}): "
            "give those of a Swin Transformer"
        ) from error


class BadContentError(ValueError):
    """A file holds what a checkpoint does not; says what, and the fix, after the file's name."""


def as_plain(content: dict[Any, Any], on_meta: bool = False) -> dict[Any, Any]:
    """A copy of a checkpoint in new containers, without configs; tensors are the same.

    Args:
        content: what a file holds.
        on_meta: whether it was read without the numbers in its tensors.

    Raises:
        BadContentError: something holds itself or is nested too deeply; a tensor is sparse,
            quantized or without numbers, or much larger than what the file has of it; ``meta`` or
            the classes in it are not what they are called.
    """
    plain = _Copy(on_meta).of(content, "", 0)
    _check_meta(plain)
    _drop_configs(plain)
    return plain


class _Copy:
    """Copies containers; what is in several places stays shared."""

    def __init__(self, on_meta: bool) -> None:
        self._on_meta = on_meta
        self._made: dict[int, Any] = {}
        self._open: set[int] = set()
        self._repeated = 0

    def of(self, value: Any, path: str, level: int) -> Any:
        if isinstance(value, Tensor):
            self._check(value, path)
            return value
        if not isinstance(value, _CONTAINERS):
            rebuild = REBUILD.get(type(value))
            return value if rebuild is None else rebuild(value)
        if id(value) in self._open:
            raise BadContentError(f"holds itself, as {path:.60}: {_NOT_OURS}")
        if level > _MOST_LEVELS:
            raise BadContentError(f"is nested in {level} levels, as {path:.60}...: {_NOT_OURS}")
        if id(value) not in self._made:
            self._open.add(id(value))
            self._made[id(value)] = self._container(value, path, level + 1)
            self._open.remove(id(value))
        return self._made[id(value)]

    def _container(self, value: Any, path: str, level: int) -> Any:
        if not isinstance(value, dict):
            items = [self.of(one, f"{path}[{i}]", level) for i, one in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        kind = next(k for k in (Counter, OrderedDict, dict) if isinstance(value, k))
        made: dict[Any, Any] = kind()
        for key, one in kind.items(value):
            made[key] = self.of(one, f"{path}.{_shown(key)}".lstrip("."), level)
        notes = getattr(value, "_metadata", None)  # torch's, on the versions of modules
        if kind is OrderedDict and isinstance(notes, dict):
            made._metadata = _versions(notes)  # type: ignore[attr-defined]
        return made

    def _check(self, value: Tensor, path: str) -> None:
        kinds = {"nested": value.is_nested, "quantized": value.is_quantized}
        kinds |= {"sparse": value.layout is not torch.strided, "meta": value.is_meta}
        if self._on_meta:
            del kinds["meta"]
        for kind in (kind for kind, holds in kinds.items() if holds):
            raise BadContentError(f"has a {kind} tensor, {path}: {_NOT_OURS}")
        if not value.is_meta:
            stored = value.untyped_storage().nbytes()
            self._repeated += max(0, value.numel() * value.element_size() - stored)
            if self._repeated > _MOST_REPEATED:
                shape = tuple(value.shape)
                raise BadContentError(f"has {stored} bytes for {path} {shape}: {_NOT_OURS}")


def _versions(notes: Mapping[Any, Any]) -> OrderedDict[str, dict[str, Any]]:
    """torch's notes on modules: by name, a version for each."""
    return OrderedDict(
        (name, {"version": note["version"]})
        for name, note in notes.items()
        if isinstance(name, str) and isinstance(note, dict) and type(note.get("version")) is int
    )


def _check_meta(content: Mapping[Any, Any]) -> None:
    meta = content.get("meta")
    if isinstance(meta, Tensor):  # a weight of that name
        return
    if not isinstance(meta, (Mapping, type(None))):
        raise BadContentError(f"has a {type(meta).__name__} as meta, not a dict: {_NOT_OURS}")
    known = dataset_meta(content)
    for key, is_right in (("classes", _is_names), ("palette", _is_palette)):
        if key in known and not is_right(known[key]):
            raise BadContentError(f"has {_shown(known[key])} as meta's {key}: {_NOT_OURS}")


def dataset_meta(checkpoint: Mapping[Any, Any]) -> dict[str, Any]:
    """Class names and palette as mmengine, or before it mmdet 2 and mmseg 0, wrote them.

    Raises:
        BadContentError: they are in something other than a dict.
    """
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return {}
    old_names = {key: meta[key] for key in ("CLASSES", "PALETTE") if key in meta}
    known = meta.get("dataset_meta")
    known = old_names if known is None else known
    if not isinstance(known, Mapping):
        raise BadContentError(
            f"has a {type(known).__name__} as meta.dataset_meta, not a dict: {_NOT_OURS}"
        )
    found = {key.lower(): value for key, value in known.items() if isinstance(key, str)}
    return {key: value for key, value in found.items() if value is not None}


def _is_names(classes: Any) -> bool:
    return isinstance(classes, (list, tuple)) and all(isinstance(one, str) for one in classes)


def _is_palette(palette: Any) -> bool:
    """Whether it is a name, or an RGB colour for each class."""
    try:
        return isinstance(palette, str) or all(
            len([int(value) for value in colour]) == 3 for colour in palette
        )
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(value: Any) -> str:
    if isinstance(value, (int, float, str)):
        return f"{value!s:.60}"
    return f"a {type(value).__name__}"


def _drop_configs(content: Mapping[Any, Any]) -> None:
    """Removes the texts of configs: mmengine runs them, to compare or to build a model."""
    hub = content.get("message_hub")
    info = hub.get("runtime_info") if isinstance(hub, Mapping) else None
    for holder in (content.get("meta"), info):
        if isinstance(holder, dict):
            for key in ("config", "cfg"):
                holder.pop(key, None)


def check_state(weights: Mapping[Any, Tensor]) -> None:
    """Requires names, and finite numbers but for masks, which add -inf to scores.

    Raises:
        BadContentError: names the first weight for which this does not hold.
    """
    for name in weights:
        if not isinstance(name, str):
            raise BadContentError(f"has a weight named {_shown(name)}, not by a text: {_NOT_OURS}")
    if found := first_not_finite(weights.items()):
        raise BadContentError(
            f"has weights that are not finite, first {found}: give an earlier checkpoint"
        )


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that has a NaN, or an infinity and is no mask; None for none."""
    for name, value in tensors:
        if not is_finite(value, infinity=name.endswith("mask")):
            return name
    return None


def is_finite(value: Tensor, infinity: bool = False) -> bool:
    """Whether all numbers of a tensor are finite; with ``infinity``, whether none is NaN."""
    value = torch.view_as_real(value) if value.is_complex() else value
    if value.is_meta or not value.numel() or not value.is_floating_point():
        return True
    # An expanded dimension repeats its numbers: one of them is enough.
    for dimension, stride in enumerate(value.stride()):
        value = value.narrow(dimension, 0, 1) if stride == 0 else value
    value = value.detach() if value.dtype in (torch.float32, torch.float64) else value.float()
    ends = [float(end) for end in torch.aminmax(value)]  # NaN if there is one
    return not any(math.isnan(end) if infinity else not math.isfinite(end) for end in ends)
