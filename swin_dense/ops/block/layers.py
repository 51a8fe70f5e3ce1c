"""Layers as their tensors, and the gradients of their parameters."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from swin_dense.ops.dispatch import cast_together


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
        names: of norms and linear layers, in the order of the parameters: a weight and a bias
            each.
        wanted: for each parameter, whether its gradient is wanted.
    """

    def __init__(self, names: Sequence[str], wanted: Sequence[bool]) -> None:
        keys = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
        self._wanted = dict(zip(keys, wanted, strict=True))
        self._sums: dict[str, Tensor] = {}

    def wants(self, name: str) -> tuple[bool, bool]:
        """Whether gradients of this layer's weight and bias are wanted."""
        return self._wanted[f"{name}.weight"], self._wanted[f"{name}.bias"]

    def add_norm(
        self, d_weight: Tensor | None, d_bias: Tensor | None, *, name: str = "norm"
    ) -> None:
        """Add to the gradients of a LayerNorm's parameters."""
        self.add(f"{name}.weight", d_weight)
        self.add(f"{name}.bias", d_bias)

    def add_linear(
        self,
        name: str,
        grad: Tensor,
        x: Tensor,
        weight_gradient: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None,
        d_bias: Tensor | None = None,
    ) -> None:
        """Add to the gradients of a linear layer.

        Args:
            name: of the layer.
            grad: gradient of its output, ``(T, out)``.
            x: its input, ``(T, in)``.
            weight_gradient: adds ``grad.T @ x`` to a sum, or to nothing, and returns the result.
            d_bias: sum of the rows of ``grad`` in fp32, if there is one already.
        """
        weight, bias = f"{name}.weight", f"{name}.bias"
        if self._wanted[weight]:
            if weight_gradient is None or grad.element_size() < 4:
                self.add(weight, grad.t() @ x)
            else:
                self._sums[weight] = weight_gradient(grad, x, self._sums.get(weight))
        if self._wanted[bias] and d_bias is None:
            d_bias = grad.sum(0, dtype=torch.promote_types(grad.dtype, torch.float32))
        self.add(bias, d_bias)

    def add(self, key: str, value: Tensor | None) -> None:
        """Add to the gradient of a parameter, such as ``'norm.weight'``, if it is wanted."""
        if value is None or not self._wanted[key]:
            return
        if key in self._sums:  # chunks are summed in fp32 at least
            dtype = torch.promote_types(value.dtype, torch.float32)
            value = self._sums[key].to(dtype).add_(value)
        self._sums[key] = value

    def like(self, parameters: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The sums, each in the precision of its parameter."""
        wanted = zip(self._wanted, parameters, strict=True)
        sums = [None if p is None else self._sums.get(key) for key, p in wanted]
        return cast_together(sums, [None if p is None else p.dtype for p in parameters])
