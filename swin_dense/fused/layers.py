"""Layers as their tensors, and the pieces of arithmetic that the fused functions share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Numbers of the widest intermediate map that are worked on at once on a CPU: 4 MB, which stay in
# the cache from one operation to the next.
_CHUNK = 2**20


class Norm(NamedTuple):
    """LayerNorm over C channels: weight and bias ``(C,)``."""

    weight: Tensor
    bias: Tensor
    eps: float


class Linear(NamedTuple):
    """Linear layer: weight ``(out, in)``, bias ``(out,)`` or None."""

    weight: Tensor
    bias: Tensor | None

    def to(self, dtype: torch.dtype) -> Linear:
        """This layer in another precision."""
        if self.weight.dtype == dtype and (self.bias is None or self.bias.dtype == dtype):
            return self
        bias = None if self.bias is None else self.bias.to(dtype)
        return Linear(self.weight.to(dtype), bias)


def product_dtype(weight: Tensor) -> torch.dtype:
    """Precision of matrix products with ``weight``: autocast's, or the weight's own."""
    device = weight.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype


def chunks(x: Tensor, width: int) -> Iterator[slice]:
    """Slices of the rows of ``x``, so many that maps of ``width`` channels stay in the cache.

    One slice of all rows elsewhere than on a CPU.
    """
    rows = max(1, len(x))
    step = max(1, _CHUNK // width) if x.device.type == "cpu" else rows
    for start in range(0, rows, step):
        yield slice(start, start + step)


def normalise(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of rows ``(T, C)`` in the norm's precision; mean and 1 / deviation ``(T, 1)``."""
    return torch.native_layer_norm(x.to(norm.weight.dtype), norm.weight.shape, *norm)


def normalise_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, norm: Norm, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias of :func:`normalise`, those that are wanted."""
    dtype = norm.weight.dtype
    weight, bias, _ = norm
    return torch.ops.aten.native_layer_norm_backward(
        grad.to(dtype), x.to(dtype), weight.shape, mean, rstd, weight, bias, list(wanted)
    )


class Sums:
    """Gradients of parameters, summed over chunks of rows; None for those that nobody wants."""

    def __init__(self, wanted: Sequence[bool]) -> None:
        self.wanted = tuple(wanted)
        self._sums: list[Tensor | None] = [None] * len(self.wanted)

    def add(self, i: int, value: Tensor | None) -> None:
        """Add to gradient i; sums of several chunks are in fp32 at least."""
        if value is None or not self.wanted[i]:
            return
        total = self._sums[i]
        if total is None:
            self._sums[i] = value
        else:
            dtype = torch.promote_types(value.dtype, torch.float32)
            self._sums[i] = total.to(dtype).add_(value)

    def add_linear(self, i: int, grad: Tensor, x: Tensor) -> None:
        """Add to gradients i, i + 1 of a linear layer's weight and bias: rows of output, input."""
        if self.wanted[i]:
            total = self._sums[i]
            if total is None or total.dtype != grad.dtype or grad.element_size() < 4:
                self.add(i, grad.t() @ x)
            else:
                total.addmm_(grad.t(), x)
        if self.wanted[i + 1]:
            self.add(i + 1, grad.sum(0, dtype=torch.promote_types(grad.dtype, torch.float32)))

    def like(self, parameters: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The sums, each in the precision of its parameter."""
        pairs = zip(self._sums, parameters, strict=True)
        return [None if s is None or p is None else s.to(p.dtype) for s, p in pairs]


def differentiable_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Any], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of plain PyTorch's ``function(*inputs)`` that have a graph of their own.

    For when someone differentiates gradients, which no fused backward can.
    """
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    with torch.enable_grad():
        found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
    return [next(found) if isinstance(x, Tensor) and x.requires_grad else None for x in inputs]
