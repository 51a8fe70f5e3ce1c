"""Results that are kept while what they were computed from stays the same."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from swin_dense.ops.dispatch import is_eager, is_observed


class _Source(NamedTuple):
    """A tensor that a result was computed from, as it was then."""

    address: int
    version: int
    content: Tensor | None  # a copy, on a CPU


class Kept:
    """The latest result of a function of tensors, computed again when one of them has changed.

    On a CPU the numbers are compared; elsewhere, where this would wait for the device, addresses
    and versions, which any change in place raises, but one through ``.data``: call :meth:`clear`
    after such changes. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._kept: tuple[list[_Source], Tensor] | None = None

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return type(self), ()

    def clear(self) -> None:
        """Forget the result."""
        self._kept = None

    def get(self, compute: Callable[[], Tensor], sources: Sequence[Tensor]) -> Tensor:
        """``compute()``, which depends on ``sources`` alone.

        Nothing is kept where a gradient is wanted, something traces or observes what is computed,
        or a CUDA graph is recorded, whose replays have to follow later changes.
        """
        if not _may_keep(sources):
            return compute()
        kept = self._kept  # read once: another thread may replace it
        if kept is not None and _same(kept[0], sources):
            return kept[1]
        # Made under inference mode, it could not serve a training step later.
        with torch.inference_mode(False), torch.no_grad():
            result = compute()
            self._kept = [_source(x) for x in sources], result
        return result


def _may_keep(sources: Sequence[Tensor]) -> bool:
    if torch.is_grad_enabled() and any(x.requires_grad for x in sources):
        return False
    if not is_eager(*sources) or is_observed() or any(x.is_inference() for x in sources):
        return False
    return not (sources[0].is_cuda and torch.cuda.is_current_stream_capturing())


def _source(x: Tensor) -> _Source:
    content = x.detach().clone() if x.device.type == "cpu" else None
    return _Source(x.data_ptr(), x._version, content)


def _same(then: Sequence[_Source], now: Sequence[Tensor]) -> bool:
    if len(then) != len(now):
        return False
    for source, x in zip(then, now, strict=True):
        if source.content is not None:
            same = x.dtype == source.content.dtype and x.device == source.content.device
            same = same and torch.equal(x, source.content)
        else:
            same = x._version == source.version and x.data_ptr() == source.address
        if not same:
            return False
    return True
