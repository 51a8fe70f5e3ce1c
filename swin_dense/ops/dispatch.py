"""Who computes a layer: PyTorch's modules, or our functions in their place.

This file and ``torch_versions.py`` are the only ones that use private names of PyTorch.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, wraps
from itertools import chain
from operator import is_
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)
from torch.utils._python_dispatch import TorchDispatchMode

from swin_dense.ops import autotune, triton_support
from swin_dense.ops.autotune import Candidate, Race
from swin_dense.ops.torch_versions import is_compiling

P = ParamSpec("P")
R = TypeVar("R")

ATTN_IMPLS = ("auto", "reference", "sdpa", "cpu", "triton")


@dataclass(frozen=True)
class AttnImpl:
    """Who computes the attention, and the layers around it.

    Args:
        name: attention is computed by the backend of this name, see :mod:`~.window_attention.api`;
            with 'auto' on a GPU, blocks are computed as was measured to be the fastest, see
            :mod:`~.backbones.tuning`.
        fused: whether the functions of :mod:`~.ops.block` may compute the layers around it;
            otherwise the plain modules do.
        triton: whether these functions use Triton wherever there is a kernel, not PyTorch.
    """

    name: str
    fused: bool = True
    triton: bool = False

    @classmethod
    def parse(cls, name: str) -> AttnImpl:
        """What the argument ``attn_impl=name`` means to every layer of a backbone.

        Raises:
            ValueError: there is no such implementation, or it is not installed.
        """
        if name not in ATTN_IMPLS:
            raise ValueError(f"attn_impl must be one of {', '.join(ATTN_IMPLS)}, got {name!r}")
        if name == "triton" and (reason := triton_support.unavailable_reason()):
            raise ValueError(f"attn_impl='triton' {reason}; or use attn_impl='auto'")
        return cls(name, fused=name != "reference", triton=name == "triton")

    def __str__(self) -> str:
        layers = "triton" if self.triton else "pytorch"
        return f"{layers if self.fused else 'modules'}+{self.name}"


def is_eager(*tensors: Tensor | None) -> bool:
    """Whether these hold numbers that are computed now, one call at a time.

    Not while torch.compile, export or torch.jit traces, under torch.func's transforms, in
    forward-mode differentiation, nor for meta, fake and other wrapped tensors: there only
    operators that PyTorch itself knows can run. Where kernels are only compiled, any tensor does.
    """
    if is_compiling() or torch.jit.is_tracing() or forward_ad._current_level >= 0:
        return False
    for x in tensors:
        if x is not None and (
            type(x) not in (Tensor, nn.Parameter)
            or x.is_meta
            or torch._C._functorch.is_functorch_wrapped_tensor(x)
        ):
            return triton_support.compiles_only()
    return True


def has_global_hooks() -> bool:
    """Whether something is called before or after every module."""
    return bool(
        _global_forward_hooks
        or _global_forward_pre_hooks
        or _global_backward_hooks
        or _global_backward_pre_hooks
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called before or after this module."""
    forward = module._forward_hooks or module._forward_pre_hooks
    backward = module._backward_hooks or module._backward_pre_hooks
    return bool(forward or backward or has_global_hooks())


def is_observed() -> bool:
    """Whether modes see every operator that runs, or global hooks every module that is called.

    Where kernels are only compiled, modes see tensors without numbers, and these run as others do.
    """
    modes = torch._C._len_torch_dispatch_stack() and not triton_support.compiles_only()
    return bool(modes) or has_global_hooks()


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


def compiler_counts() -> tuple[int, int]:
    """How many graphs torch.compile has made in this process, and how many graph breaks it met."""
    from torch._dynamo.utils import counters  # imports the compiler

    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def differentiable_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Any], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of plain PyTorch's ``function(*inputs)`` that can be differentiated again.

    A fused backward pass cannot: it has no graph.
    """
    is_wanted = [isinstance(x, Tensor) and x.requires_grad for x in inputs]
    with torch.enable_grad():
        # Views, as an input may have been computed from another: qkv from its bias.
        inputs = [x.view_as(x) if want else x for x, want in zip(inputs, is_wanted, strict=True)]
        wanted = [x for x, want in zip(inputs, is_wanted, strict=True) if want]
        found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
    return [next(found) if want else None for want in is_wanted]


def cast_together(
    tensors: Sequence[Tensor | None], dtypes: torch.dtype | Sequence[torch.dtype | None]
) -> list[Any]:
    """Tensors in ``dtypes``, without autograd: all that are in others are copied by one kernel."""
    if isinstance(dtypes, torch.dtype):
        dtypes = [dtypes] * len(tensors)
    found: list[Any] = []
    sources: list[Tensor] = []
    copies: list[Tensor] = []
    for x, dtype in zip(tensors, dtypes, strict=True):
        found.append(x)
        if x is not None and x.dtype != dtype:
            sources.append(x)
            copies.append(torch.empty_like(x, dtype=dtype))
            found[-1] = copies[-1]
    if copies:
        torch._foreach_copy_(copies, sources)
    return found


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
        if module is not self._module or not is_eager(x) or has_global_hooks():
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


# Rows, input and output channels of the products that are checked, and of those that are timed:
# Swin's, a few milliseconds.
_CHECKED_SIZES, _TIMED_SIZES = (300, 96, 160), (2048, 384, 384)
_TIMED_SECONDS = 0.3
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
    use. It is taken where :mod:`~.autotune` found it faster on this machine, or as
    ``SWIN_DENSE_ONEDNN=0`` or ``1`` says; ``backward``: for the gradient of a weight.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and multiplications >= _SMALLEST
        and bool(torch.backends.mkldnn.enabled)
        and not torch._C._len_torch_dispatch_stack()  # to FLOP counters it is an unknown operator
        and _prefer_onednn(
            backward,
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            autotune.in_job(),
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
def _prefer_onednn(backward: bool, threads: int, deterministic: bool, in_job: bool) -> bool:
    """Whether oneDNN is available and faster, under these conditions."""
    setting = os.environ.get("SWIN_DENSE_ONEDNN", "")
    if setting == "0" or not onednn_available():
        return False
    return setting == "1" or autotune.choose(race_of_products(backward)) == "oneDNN"


def race_of_products(backward: bool) -> Race:
    """MKL, as PyTorch's own linear layers, against oneDNN; ``backward``: for weight gradients."""

    @cache  # made where they are used: the caller may be in inference mode
    def inputs(sizes: tuple[int, int, int]) -> list[Tensor]:
        rows, channels, out = sizes
        generator = torch.Generator().manual_seed(0)
        shapes = ((rows, channels), (out, channels), (rows, out), (out,))
        return [torch.randn(shape, generator=generator) for shape in shapes]

    def by_mkl(x: Tensor, weight: Tensor, grad: Tensor, bias: Tensor) -> list[Tensor]:
        if backward:
            return [grad.t() @ x, x.t() @ grad]
        linear = F.linear(x, weight, bias)
        return [linear, F.gelu(linear), grad @ weight]

    def by_onednn(x: Tensor, weight: Tensor, grad: Tensor, bias: Tensor) -> list[Tensor]:
        if backward:
            return [onednn_weight_gradient(grad, x), onednn_weight_gradient(x, grad)]
        linear = [onednn_linear(x, weight, bias, activation) for activation in ("none", "gelu")]
        return [*linear, onednn_linear(grad, weight.t(), None, "none")]

    def step_of_mkl() -> Tensor:
        x, weight, grad, bias = inputs(_TIMED_SIZES)
        return weight.addmm_(grad.t(), x) if backward else F.linear(x, weight, bias)

    def step_of_onednn() -> Tensor:
        x, weight, grad, bias = inputs(_TIMED_SIZES)
        if backward:
            return weight.add_(onednn_weight_gradient(grad, x))
        return onednn_linear(x, weight, bias, "none")

    device = autotune.describe_device(torch.device("cpu"))
    what = "weight gradients of linear layers" if backward else "products of linear layers"
    return Race(
        what,
        {"what": what, "device": device, "versions": autotune.versions()},
        [
            Candidate("MKL", lambda: by_mkl(*inputs(_CHECKED_SIZES)), step_of_mkl),
            Candidate(
                "oneDNN", lambda: by_onednn(*inputs(_CHECKED_SIZES)), step_of_onednn, 1 / _MARGIN
            ),
        ],
        lambda: by_mkl(*(tensor.double() for tensor in inputs(_CHECKED_SIZES))),
        trusted="MKL",
        fixed="MKL",
        device=torch.device("cpu"),
        seconds=_TIMED_SECONDS,
    )


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """No mixed precision for operators on ``x``'s device; the meta device has none anyway."""
    if x.is_meta:  # torch.autocast refuses this device
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def fake_cuda_tensors() -> contextlib.AbstractContextManager[Any]:
    """Within it, tensors on CUDA have no numbers, and need no GPU: operators tell only shapes."""
    return FakeTensorMode()


def efficient_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None,
) -> Tensor:  # fmt: skip
    """What PyTorch's attention is on CUDA with a mask: its memory-efficient kernel."""
    operator = torch.ops.aten._scaled_dot_product_efficient_attention
    keep = any(x is not None and x.requires_grad for x in (q, k, v, attn_mask))
    return operator(q, k, v, attn_mask, keep, dropout_p, is_causal, scale=scale)[0]


def gradient_formats(node: Any) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Precision and shape of the gradients that a node of autograd's graph takes."""
    return [(one.dtype, tuple(one.shape)) for one in node._input_metadata]


def sequence_number(node: Any) -> int:
    """When a node of autograd's graph was made: its engine runs the latest first."""
    return node._sequence_nr()


class OperatorCounter(TorchDispatchMode):
    """Within it, ``count`` is the number of operators that computed something.

    Views do not count, nor does ``_unsafe_view``, a view whose source nothing else refers to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run and count an operator."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not (func.is_view or func is torch.ops.aten._unsafe_view.default):
            self.see(func, args, kwargs, out)
        return out

    def see(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """What is done about an operator that computed ``out``."""
        self.count += 1


def forward_traceback() -> Sequence[str]:
    """Where the operator was called whose gradient is being computed now.

    As ``traceback.format_stack`` gives it; empty outside of backward, and outside of autograd's
    anomaly detection, which keeps it.
    """
    node: Any = torch._C._current_autograd_node()
    return () if node is None else node.metadata.get("traceback_", ())
