"""Layers as their tensors, and the pieces of arithmetic that the fused functions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from swin_dense.ops.block import matmul as products

# Numbers of the widest intermediate map that are worked on at once on a CPU: 16 MB, which stay in
# the cache from one operation to the next.
_CHUNK = 2**22


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


class BlockEnd(NamedTuple):
    """The layers behind a block's attention."""

    projection: Linear
    norm: Norm
    fc1: Linear
    fc2: Linear

    @classmethod
    def of(cls, parameters: Sequence[Tensor | None], eps: float) -> BlockEnd:
        """From weight and bias of each in turn."""
        wp, bp, wn, bn, w1, b1, w2, b2 = parameters
        return cls(Linear(wp, bp), Norm(wn, bn, eps), Linear(w1, b1), Linear(w2, b2))  # type: ignore[arg-type]

    def to(self, dtype: torch.dtype) -> BlockEnd:
        """With the linear layers in another precision."""
        projection, norm, fc1, fc2 = self
        return BlockEnd(projection.to(dtype), norm, fc1.to(dtype), fc2.to(dtype))


def product_dtype(weight: Tensor) -> torch.dtype:
    """Precision of matrix products with ``weight``: autocast's, or the weight's own."""
    device = weight.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype


def by_chunks(
    function: Callable[[slice], tuple[Tensor, ...]], x: Tensor, width: int
) -> tuple[Tensor, ...]:
    """Results of ``function(rows)`` for all rows of ``x``, each ``(T, ...)``.

    On a CPU it is called for some rows at a time, so few that maps of ``width`` channels stay in
    the cache; elsewhere once.
    """
    total = len(x)
    step = max(1, _CHUNK // width) if x.device.type == "cpu" else total
    if total <= step:
        return function(slice(0, total))
    results: list[Tensor] = []
    for start in range(0, total, step):
        rows = slice(start, start + step)
        parts = function(rows)
        results = results or [part.new_empty(total, *part.shape[1:]) for part in parts]
        for result, part in zip(results, parts, strict=True):
            result[rows] = part
    return tuple(results)


def normalise(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of rows ``(T, C)`` in the norm's precision; mean and 1 / deviation ``(T, 1)``."""
    return torch.native_layer_norm(x.to(norm.weight.dtype), norm.weight.shape, *norm)


class Sums:
    """Gradients of parameters, summed over chunks of rows; None for those that nobody wants.

    Args:
        names: ``'norm'`` and the linear layers', in the order of the parameters: a weight and a
            bias each.
        wanted: of every parameter, whether its gradient is.
    """

    def __init__(self, names: Sequence[str], wanted: Sequence[bool]) -> None:
        self._first = {name: 2 * i for i, name in enumerate(names)}
        self._wanted = tuple(wanted)
        self._sums: list[Tensor | None] = [None] * len(self._wanted)

    def wants(self, name: str) -> tuple[bool, ...]:
        """Whether gradients of this layer's weight and bias are wanted."""
        return self._wanted[self._first[name] :][:2]

    def add_norm(self, d_weight: Tensor | None, d_bias: Tensor | None) -> None:
        """Add to the gradients of the LayerNorm's parameters."""
        self._add(self._first["norm"], d_weight)
        self._add(self._first["norm"] + 1, d_bias)

    def add_linear(self, name: str, grad: Tensor, x: Tensor) -> None:
        """Add to the gradients of a linear layer: gradient of its output, and its input, rows."""
        i = self._first[name]
        if self._wanted[i]:
            if grad.element_size() < 4:
                self._add(i, grad.t() @ x)
            else:
                self._sums[i] = products.weight_gradient(grad, x, self._sums[i])
        if self._wanted[i + 1]:
            self._add(i + 1, grad.sum(0, dtype=torch.promote_types(grad.dtype, torch.float32)))

    def _add(self, i: int, value: Tensor | None) -> None:
        if value is None or not self._wanted[i]:
            return
        total = self._sums[i]
        if total is None:
            self._sums[i] = value
        else:  # chunks are summed up in fp32 at least
            dtype = torch.promote_types(value.dtype, torch.float32)
            self._sums[i] = total.to(dtype).add_(value)

    def like(self, parameters: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The sums, each in the precision of its parameter."""
        pairs = zip(self._sums, parameters, strict=True)
        return [None if s is None or p is None else s.to(p.dtype) for s, p in pairs]


def normalise_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, norm: Norm, sums: Sums
) -> Tensor:
    """Gradient of :func:`normalise`'s input; adds those of its parameters to ``sums``."""
    dtype = norm.weight.dtype
    weight, bias, _ = norm
    dx, *d_norm = torch.ops.aten.native_layer_norm_backward(
        grad.to(dtype), x.to(dtype), weight.shape, mean, rstd, weight, bias,
        [True, *sums.wants("norm")],
    )  # fmt: skip
    sums.add_norm(*d_norm)
    return dx
