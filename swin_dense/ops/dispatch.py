"""Where hand-written operators may stand in for PyTorch's, and where they hand back to them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_eager(*tensors: Tensor | None) -> bool:
    """Whether these hold numbers that are computed now, one call at a time.

    Not while torch.compile, export or torch.jit traces, under torch.func's transforms, in
    forward-mode differentiation, nor for meta, fake and other wrapped tensors: there only
    operators that PyTorch itself knows will do.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or forward_ad._current_level >= 0:
        return False
    return all(
        x is None
        or (type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta and not _is_transformed(x))
        for x in tensors
    )


def _is_transformed(x: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


P = ParamSpec("P")
R = TypeVar("R")

_disabled = lru_cache(maxsize=None)(torch.compiler.disable)


def out_of_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """Keep torch.compile from looking into a function that takes eager tensors.

    Where it has given up on what calls the function, it would go on with what that calls.
    torch.compiler.disable does this too, but loads the compiler when it is applied, on import.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" in sys.modules:
            return _disabled(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call


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
