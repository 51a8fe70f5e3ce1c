"""Matrix products of linear layers, without autograd, by the library that is faster here.

On some processors oneDNN multiplies fp32 matrices faster than MKL, which is what PyTorch's linear
layers take; it also applies GELU while a result is in the cache. PyTorch has oneDNN's product as
an operator for its compiler only, so it is used where it is there, and where it won a race on this
machine. ``SWIN_DENSE_ONEDNN=0`` or ``1`` decides without a race.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional as F

# Rows, input and output channels of the products that are raced: Swin's, a few milliseconds.
_RACE = (2048, 384, 384)
_TURNS = 15
# Multiplications of the smallest product that is given to oneDNN, whose calls cost more.
_SMALLEST = 2**23
# What oneDNN has to win by: less is noise, and not worth a private operator.
_MARGIN = 0.98

logger = logging.getLogger(__name__)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``: ``(T, in)`` and ``(out, in)`` to ``(T, out)``."""
    if _by_onednn(x, len(x) * weight.numel()):
        return _onednn(x, weight, bias, "none")
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`linear`, then the exact GELU."""
    if _by_onednn(x, len(x) * weight.numel()):
        return _onednn(x, weight, bias, "gelu")
    hidden = F.linear(x, weight, bias)
    return torch.ops.aten.gelu.out(hidden, out=hidden)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a linear layer's input: ``(T, out)`` and ``(out, in)`` to ``(T, in)``."""
    if _by_onednn(grad, len(grad) * weight.numel()):
        return _onednn(grad, weight.t(), None, "none")
    return grad @ weight


def weight_gradient(grad: Tensor, x: Tensor, total: Tensor | None) -> Tensor:
    """Gradient of a linear layer's weight: ``(T, out)`` and ``(T, in)`` to ``(out, in)``.

    Added to ``total`` in place, if that is not None; it is of the same precision.
    """
    if _by_onednn(grad, x.numel() * grad.shape[1], backward=True):
        found = _onednn_weight_gradient(grad, x)
        return found if total is None else total.add_(found)
    return grad.t() @ x if total is None else total.addmm_(grad.t(), x)


def _onednn_weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The operator is faster if it is the narrower of the two that it has to transpose."""
    if x.shape[1] < grad.shape[1]:
        return _onednn(x.t(), grad.t(), None, "none").t()
    return _onednn(grad.t(), x.t(), None, "none")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


def _by_onednn(x: Tensor, multiplications: int, backward: bool = False) -> bool:
    """Whether oneDNN is to take a product of so many; ``backward``: for the gradient of a weight.

    Not where someone looks on at operators, to count their operations say: it is not a known one.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and multiplications >= _SMALLEST
        and bool(torch.backends.mkldnn.enabled)
        and not torch._C._len_torch_dispatch_stack()
        and _chosen(backward, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    )


@lru_cache
def _chosen(backward: bool, threads: int, deterministic: bool) -> bool:
    """Whether oneDNN is there and faster, with so many threads.

    A race may end differently the next time, and with it the last bits of a result: where results
    are to be deterministic there is none.
    """
    setting = os.environ.get("SWIN_DENSE_ONEDNN", "")
    if setting == "0" or not _available():
        return False
    if setting == "1":
        return True
    if deterministic:
        return False
    onednn, mkl = _race(backward)
    won = onednn < _MARGIN * mkl
    logger.debug(
        "%s of linear layers by %s: %.2f ms with oneDNN, %.2f ms with MKL, %d threads",
        "gradients" if backward else "products", "oneDNN" if won else "MKL",
        1e3 * onednn, 1e3 * mkl, threads,
    )  # fmt: skip
    return won


def _available() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _race(backward: bool) -> tuple[float, float]:
    """Best times in seconds of oneDNN and of MKL, in turns."""
    rows, in_channels, out_channels = _RACE
    with torch.inference_mode(False), torch.no_grad():
        x, weight = torch.ones(rows, in_channels), torch.ones(out_channels, in_channels)
        grad, bias = torch.ones(rows, out_channels), torch.ones(out_channels)
        runners: tuple[Callable[[], Tensor], ...] = (
            lambda: _onednn(x, weight, bias, "none"),
            lambda: F.linear(x, weight, bias),
        )
        if backward:
            runners = (
                lambda: weight.add_(_onednn_weight_gradient(grad, x)),
                lambda: weight.addmm_(grad.t(), x),
            )
        best = [float("inf")] * 2
        for turn in range(1 + _TURNS):
            for i, runner in enumerate(runners):
                start = perf_counter()
                runner()
                if turn:  # the first makes the kernels
                    best[i] = min(best[i], perf_counter() - start)
    return best[0], best[1]
