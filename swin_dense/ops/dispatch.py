"""Who computes a layer: PyTorch's modules, or our functions in their place.

The only file that uses private names of PyTorch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from itertools import chain
from operator import is_
from time import perf_counter
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import TorchDispatchMode

from swin_dense.ops import triton_support

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

ATTN_IMPLS = ("auto", "reference", "sdpa", "cpu", "triton")


@dataclass(frozen=True)
class AttnImpl:
    """What the argument ``attn_impl`` means to every layer of a backbone.

    Attention is computed by the backend of this name, see :mod:`~.window_attention.api`; 'auto' is
    the fastest that was measured on the device. The layers around it are plain modules with
    'reference', and otherwise the functions of :mod:`~.ops.block`: with 'triton' by Triton where
    there is a kernel, else by PyTorch.
    """

    name: str

    @classmethod
    def parse(cls, name: str) -> AttnImpl:
        """The meaning of ``attn_impl=name``.

        Raises:
            ValueError: there is no such implementation, or it is not installed.
        """
        if name not in ATTN_IMPLS:
            raise ValueError(f"attn_impl must be one of {', '.join(ATTN_IMPLS)}, got {name!r}")
        if name == "triton" and (reason := triton_support.unavailable_reason()):
            raise ValueError(f"attn_impl='triton' {reason}; or use attn_impl='auto'")
        return cls(name)

    @property
    def fused(self) -> bool:
        """Whether the functions of ``ops.block`` may compute; otherwise the plain modules do."""
        return self.name != "reference"

    @property
    def triton(self) -> bool:
        """Whether Triton computes wherever there is a kernel for it."""
        return self.name == "triton"


def is_eager(*tensors: Tensor | None) -> bool:
    """Whether these hold numbers that are computed now, one call at a time.

    Not while torch.compile, export or torch.jit traces, under torch.func's transforms, in
    forward-mode differentiation, nor for meta, fake and other wrapped tensors: there only
    operators that PyTorch itself knows can run.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or forward_ad._current_level >= 0:
        return False
    for x in tensors:
        if x is not None and (
            type(x) not in (Tensor, nn.Parameter)
            or x.is_meta
            or torch._C._functorch.is_functorch_wrapped_tensor(x)
        ):
            return False
    return True


def is_observed() -> bool:
    """Whether modes see every operator that runs, or global hooks every module that is called."""
    return bool(torch._C._len_torch_dispatch_stack()) or _has_any_global_hook()


_disabled = lru_cache(maxsize=None)(torch.compiler.disable)


def dynamo_disabled(function: Callable[P, R]) -> Callable[P, R]:
    """Keep torch.compile from tracing into a function that takes eager tensors.

    After a graph break in the caller, it would trace the functions that the caller calls.
    torch.compiler.disable does the same, but imports the compiler when it is applied.
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
    """Gradients of plain PyTorch's ``function(*inputs)`` that can be differentiated again.

    A fused backward pass cannot: it has no graph.
    """
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    with torch.enable_grad():
        found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
    return [next(found) if isinstance(x, Tensor) and x.requires_grad else None for x in inputs]


class Decision(Generic[R]):
    """Which functions compute a module; made once, and again when the module has changed.

    Args:
        module: the module, whose ``forward`` asks :meth:`current`.
        decide: returns what computes the module in place of its children, or None if only they
            can. It is called again after a child, a parameter or an attribute in the module was
            replaced, or a hook was added or removed.
    """

    def __init__(self, module: nn.Module, decide: Callable[[Any], R | None]) -> None:
        self._module = module
        self._decide = decide
        self._decided: R | None = None
        self._watched: list[dict] = []
        self._hooks: list[dict] = []
        self._values: list[Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # copies and pickles decide for themselves
        return type(self), (self._module, self._decide)

    def current(self, module: nn.Module, x: Tensor) -> R | None:
        """What computes ``module(x)``; None where its own children do.

        Args:
            module: the caller. A copy that shares this object, as DataParallel makes, is not the
                module that the decision is about, and gets None.
            x: its input.
        """
        if module is not self._module or not is_eager(x) or _has_any_global_hook():
            return None
        # All of it runs in C: every forward pass of every block comes here.
        values = list(chain.from_iterable(map(dict.values, self._watched)))
        known = self._values
        if known is None or len(values) != len(known) or not all(map(is_, values, known)):
            self._make()
        return None if any(self._hooks) else self._decided

    def _make(self) -> None:
        watched: list[dict] = []
        hooks: list[dict] = []
        for part in self._module.modules():
            # A `forward` of the instance, a rate, and the mode are in __dict__.
            watched += (part.__dict__, part._modules, part._parameters)
            if part is not self._module:  # its own hooks are called around its forward
                hooks += (part._forward_hooks, part._forward_pre_hooks)
                hooks += (part._backward_hooks, part._backward_pre_hooks)
        self._decided = self._decide(self._module)
        self._watched, self._hooks = watched, hooks
        # Last: other threads look at these first.
        self._values = list(chain.from_iterable(map(dict.values, watched)))


def storage_signature(module: nn.Module) -> list[int] | None:
    """The parts of a module in evaluation mode and the addresses of their tensors.

    None if a part is in training mode or has hooks (those of ``module`` itself do not count).
    Written for speed, as every forward pass with CUDA graphs calls it.
    """
    found: list[int] = []
    todo = [module]
    while todo:
        part = todo.pop()
        hooks = part is not module and (part._forward_hooks or part._forward_pre_hooks)
        if part.training or hooks:
            return None
        found.append(id(part))
        found += [p.data_ptr() for p in part._parameters.values() if p is not None]
        found += [b.data_ptr() for b in part._buffers.values() if b is not None]
        todo += [child for child in part._modules.values() if child is not None]
    return found


def softmax_backward(grad: Tensor, softmax: Tensor) -> Tensor:
    """Gradient of the input of a softmax over the last axis, from that of its output."""
    return torch.ops.aten._softmax_backward_data(grad, softmax, -1, softmax.dtype)


# Rows, input and output channels of the products that are timed: Swin's, a few milliseconds.
_TIMED_SIZES = (2048, 384, 384)
_TIMED_ROUNDS = 15
# Multiplications of the smallest product that is given to oneDNN, whose calls cost more.
_SMALLEST = 2**23
# Of MKL's time, what oneDNN may take at most: less is noise, and not worth a private operator.
_MARGIN = 0.98


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """A linear layer by oneDNN, with ``activation`` 'none' or 'gelu'; without autograd."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


def onednn_linear_add(total: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``total + linear(x)`` by oneDNN, rounded once; without autograd."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, total, weight, bias, "add")


def onednn_available() -> bool:
    """Whether this build of PyTorch has :func:`onednn_linear`."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of a linear layer's weight by oneDNN: ``(T, out)``, ``(T, in)`` to ``(out, in)``."""
    # The operator is faster if it has to transpose the narrower of the two.
    if x.shape[1] < grad.shape[1]:
        return onednn_linear(x.t(), grad.t(), None, "none").t()
    return onednn_linear(grad.t(), x.t(), None, "none")


def use_onednn(x: Tensor, multiplications: int, backward: bool = False) -> bool:
    """Whether oneDNN computes a matrix product of so many multiplications.

    On some processors it multiplies fp32 matrices faster than MKL, which PyTorch's linear layers
    use. It is taken where it was faster when both were timed in this process, or as
    ``SWIN_DENSE_ONEDNN=0`` or ``1`` says; ``backward``: for the gradient of a weight.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and multiplications >= _SMALLEST
        and bool(torch.backends.mkldnn.enabled)
        and not torch._C._len_torch_dispatch_stack()  # to FLOP counters it is an unknown operator
        and _prefer_onednn(
            backward, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        )
    )


def use_onednn_bf16(x: Tensor) -> bool:
    """Whether linear layers of bf16 go to oneDNN directly, which fuses what surrounds them.

    PyTorch's own are oneDNN's too, but read and write the result once more to add a bias.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and bool(torch.backends.mkldnn.enabled)
        and os.environ.get("SWIN_DENSE_ONEDNN", "") != "0"
        and not torch._C._len_torch_dispatch_stack()
        and _onednn_takes_bf16()
    )


@lru_cache
def _onednn_takes_bf16() -> bool:
    """Whether this processor can; oneDNN's error says that it needs AVX-512."""
    if not onednn_available():
        return False
    x = torch.ones(2, 2, dtype=torch.bfloat16)
    try:
        return bool((onednn_linear(x, x, None, "none") == 2).all())
    except RuntimeError:
        return False


@lru_cache
def _prefer_onednn(backward: bool, threads: int, deterministic: bool) -> bool:
    """Whether oneDNN is available and faster with so many threads.

    Timing may end differently the next time, and with it the last bits of a result: where results
    must be deterministic, PyTorch's own products are used.
    """
    setting = os.environ.get("SWIN_DENSE_ONEDNN", "")
    if setting == "0" or not onednn_available():
        return False
    if setting == "1":
        return True
    if deterministic:
        return False
    onednn, mkl = _benchmark_backends(backward)
    faster = onednn < _MARGIN * mkl
    logger.debug(
        "%s of linear layers by %s: %.2f ms with oneDNN, %.2f ms with MKL, %d threads",
        "gradients" if backward else "products", "oneDNN" if faster else "MKL",
        1e3 * onednn, 1e3 * mkl, threads,
    )  # fmt: skip
    return faster


def _benchmark_backends(backward: bool) -> tuple[float, float]:
    """Best times in seconds of oneDNN and of MKL, interleaved."""
    rows, in_channels, out_channels = _TIMED_SIZES
    with torch.inference_mode(False), torch.no_grad():
        x, weight = torch.ones(rows, in_channels), torch.ones(out_channels, in_channels)
        grad, bias = torch.ones(rows, out_channels), torch.ones(out_channels)
        backends: tuple[Callable[[], Tensor], ...] = (
            lambda: onednn_linear(x, weight, bias, "none"),
            lambda: F.linear(x, weight, bias),
        )
        if backward:
            backends = (
                lambda: weight.add_(onednn_weight_gradient(grad, x)),
                lambda: weight.addmm_(grad.t(), x),
            )
        best = [float("inf")] * 2
        for round_ in range(1 + _TIMED_ROUNDS):
            for i, backend in enumerate(backends):
                start = perf_counter()
                backend()
                if round_:  # the first one makes the kernels
                    best[i] = min(best[i], perf_counter() - start)
    return best[0], best[1]


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """No mixed precision for operators on ``x``'s device; the meta device has none anyway."""
    if x.is_meta:  # torch.autocast refuses this device
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


class OperatorCounter(TorchDispatchMode):
    """Within it, ``count`` is the number of operators that computed something.

    Views do not count, nor does ``_unsafe_view``, a view whose source nothing else refers to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count and run an operator."""
        self.count += not (func.is_view or func is torch.ops.aten._unsafe_view.default)
        return func(*args, **(kwargs or {}))
