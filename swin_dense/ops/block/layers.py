"""Layers as their tensors, and the gradients of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """LayerNorm over C channels: weight and bias ``(C,)``."""

    weight: Tensor
    bias: Tensor
    eps: float


class Linear(NamedTuple):
    """Linear layer: weight ``(out, in)``, bias ``(out,)`` or None."""

    weight: Tensor
    bias: Tensor | None


class ProjMlp(NamedTuple):
    """The layers after a block's attention."""

    proj: Linear
    norm: Norm
    fc1: Linear
    fc2: Linear


# Factors ``(B,)`` of the projection and of the MLP, for every image; None for 1.
Scales = tuple[Tensor | None, Tensor | None]


class ParamGrads:
    """Gradients of parameters, summed over chunks of rows; None for those that are not wanted.

    Args:
        names: ``'norm'`` and the linear layers', in the order of the parameters: a weight and a
            bias each.
        wanted: for each parameter, whether its gradient is wanted.
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

    def add_linear(
        self,
        name: str,
        grad: Tensor,
        x: Tensor,
        weight_gradient: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None,
    ) -> None:
        """Add to the gradients of a linear layer.

        Args:
            name: of the layer.
            grad: gradient of its output, ``(T, out)``.
            x: its input, ``(T, in)``.
            weight_gradient: adds ``grad.T @ x`` to a sum, or to nothing, and returns the result.
        """
        i = self._first[name]
        if self._wanted[i]:
            if weight_gradient is None or grad.element_size() < 4:
                self._add(i, grad.t() @ x)
            else:
                self._sums[i] = weight_gradient(grad, x, self._sums[i])
        if self._wanted[i + 1]:
            self._add(i + 1, grad.sum(0, dtype=torch.promote_types(grad.dtype, torch.float32)))

    def _add(self, i: int, value: Tensor | None) -> None:
        if value is None or not self._wanted[i]:
            return
        total = self._sums[i]
        if total is None:
            self._sums[i] = value
        else:  # chunks are summed in fp32 at least
            dtype = torch.promote_types(value.dtype, torch.float32)
            self._sums[i] = total.to(dtype).add_(value)

    def like(self, parameters: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The sums, each in the precision of its parameter."""
        pairs = zip(self._sums, parameters, strict=True)
        return [None if s is None or p is None else s.to(p.dtype) for s, p in pairs]
