"""Kernels and bytes of a step on a GPU that need not be there, counted operator by operator.

Tensors are on CUDA and hold no numbers, so that PyTorch's own dispatcher chooses and casts: what
runs under autocast is what runs on a GPU. Triton kernels are compiled and not run.

Bytes are those that kernels have to read and write: every tensor that a kernel takes, and every one
that it makes, once. A tensor that is expanded counts with the numbers that it has in memory. Caches
are left out: neither what a kernel reads a second time counts, nor is anything subtracted that the
kernel before left in the L2 cache.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from swin_dense.benchmarks.kernel_code import Target, record_launches
from swin_dense.benchmarks.measurement import Step
from swin_dense.ops.dispatch import (
    OperatorCounter,
    efficient_attention,
    fake_cuda_tensors,
    gradient_formats,
)
from swin_dense.ops.window_attention.api import pairs_by_offset
from swin_dense.ops.window_attention.windows import mask_store


class Cost(NamedTuple):
    """Kernels, and the bytes that they read and write."""

    kernels: int
    bytes: int

    def __add__(self, other: Any) -> "Cost":
        return Cost(self.kernels + other.kernels, self.bytes + other.bytes)


Costs = dict[str, Cost]


def total(costs: Costs) -> Cost:
    """Of all operators."""
    return sum(costs.values(), Cost(0, 0))


class Call(NamedTuple):
    """An operator that was called: its arguments, and the bytes that it takes and makes."""

    args: Sequence[Any]
    read: int
    written: int

    def size(self, place: int) -> int:
        """Bytes of the argument at a place."""
        return stored_bytes(self.args[place])


def _roll(call: Call) -> Cost:
    axes = max(1, len(call.args[2]))  # one after the other
    return Cost(axes, axes * (call.read + call.written))


def _pad(call: Call) -> Cost:
    if max(call.args[1]) <= 0:  # cropping, or nothing: a copy
        return Cost(1, 2 * call.written)
    return Cost(2, call.written + 2 * call.read)  # filled, then written over


def _slice_backward(call: Call) -> Cost:
    return Cost(2, call.written + 2 * call.read)  # zeros, then written over


def _layer_norm_backward(call: Call) -> Cost:
    dx, *parameters = call.args[-1]  # a kernel each, that reads everything
    kernels = dx + any(parameters)
    return Cost(kernels, kernels * call.read + call.written)


def _convolution_backward(call: Call) -> Cost:
    d_out, x, weight = map(call.size, range(3))
    read = [d_out + weight, d_out + x, d_out]
    wanted = [size for size, want in zip(read, call.args[-1], strict=True) if want]
    return Cost(len(wanted), sum(wanted) + call.written)


def _masked_fill(call: Call) -> Cost:
    return Cost(2, call.read + 3 * call.written)  # copied, then read, and written in places


def _im2col(call: Call) -> Cost:
    return Cost(len(call.args[0]), call.read + call.written)  # image by image


# Operators that take several kernels, or read a tensor more than once. From PyTorch's sources
# (aten/src/ATen/native/cuda). All others count as one kernel, which is the least.
_SEVERAL: dict[str, Callable[[Call], Cost]] = {
    "roll": _roll,
    "constant_pad_nd": _pad,
    "slice_backward": _slice_backward,
    "select_backward": _slice_backward,
    "native_layer_norm_backward": _layer_norm_backward,
    "convolution_backward": _convolution_backward,
    "masked_fill": _masked_fill,
    "im2col": _im2col,
}
_WITHOUT_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
# These write over their first argument and do not read it.
_OVERWRITING = (
    "copy_",
    "_foreach_copy_",
    "fill_",
    "zero_",
    "bernoulli_",
    "uniform_",
    "normal_",
    "random_",
)


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of the numbers in memory that a tensor shows: those of an expanded axis once."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    numbers = 1
    for size, stride in axes:
        numbers *= size if stride or not size else 1
    return numbers * tensor.element_size()


def _on_cuda(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and value.is_cuda:
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _on_cuda(value)


class _Operators(OperatorCounter):
    """Counts PyTorch's operators on CUDA."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: Costs = defaultdict(lambda: Cost(0, 0))

    def see(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        name = func.overloadpacket.__name__
        made = list(_on_cuda([args[0] if name.startswith("_foreach") and out is None else out]))
        if not made or name in _WITHOUT_KERNEL or _copies_between_devices(name, args):
            return
        outs = set(map(id, made))
        taken = args[1:] if name in _OVERWRITING or _takes_only_a_shape(name) else args
        taken = [*taken, *(value for value in kwargs.values() if id(value) not in outs)]
        read = sum(map(stored_bytes, {id(t): t for t in _on_cuda(taken)}.values()))
        call = Call(args, read, sum(map(stored_bytes, made)))
        self.costs[name] += _SEVERAL.get(name, _one_kernel)(call)


def _takes_only_a_shape(name: str) -> bool:
    return name.startswith("new_") or name.endswith("_like")


def _one_kernel(call: Call) -> Cost:
    return Cost(1, call.read + call.written)


def _copies_between_devices(name: str, args: Any) -> bool:
    sources = args[1:] if name == "copy_" else args
    return name in ("copy_", "_to_copy") and not next(_on_cuda(sources[:1]), None) is not None


def count(step: Step, target: Target) -> Costs:
    """Kernels and bytes of a step by the names of operators and Triton kernels, most bytes first.

    The step runs twice; what it keeps after the first time is not counted. Call this within
    :func:`without_gpu`; it needs what :func:`~.kernel_code.check_compiler` checks.
    """
    record_launches(step, target)
    with _Operators() as operators:
        launches = record_launches(step, target)
    costs = operators.costs
    for launch in launches:
        costs[launch.name] += Cost(1, launch.bytes_moved)
    return dict(sorted(costs.items(), key=lambda item: -item[1].bytes))


@contextmanager
def without_gpu() -> Iterator[None]:
    """Within it, tensors on CUDA have no numbers and need no GPU; use :func:`gradients`."""
    with warnings.catch_warnings(), fake_cuda_tensors(), _WithoutGpu(), mask_store({}):
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        pairs_by_offset.cache_clear()
        try:
            yield
        finally:
            pairs_by_offset.cache_clear()


@contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """CUDA's autocast, which ``torch.autocast`` turns off where there is no GPU."""
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


class _WithoutGpu(TorchFunctionMode):
    """Replaces what asks CUDA for its properties or streams."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function of PyTorch."""
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            return _autograd_grad(*args, **kwargs)
        # PyTorch would take plain arithmetic where there is no GPU.
        fused = torch.backends.cuda.mem_efficient_sdp_enabled()
        if func is F.scaled_dot_product_attention and fused:
            return efficient_attention(*args, **kwargs)
        return func(*args, **kwargs)


def _autograd_grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **_: Any) -> tuple:
    as_list = [[x] if isinstance(x, Tensor) else x for x in (outputs, inputs, grad_outputs)]
    return tuple(gradients(*as_list))


def gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """What ``torch.autograd.grad`` returns, node by node: PyTorch's engine asks CUDA for streams.

    Args:
        outputs: results.
        inputs: leaves.
        grads: gradients of the results.
    """
    edges = [get_gradient_edge(x) for x in outputs]
    leaves = [get_gradient_edge(x).node for x in inputs]
    waiting = _edges_into([edge.node for edge in edges])
    received: dict[Any, list[Tensor | None]] = {}
    ready: list[Any] = []

    def deliver(node: Any, place: int, grad: Tensor | None) -> None:
        formats = gradient_formats(node)
        slots = received.setdefault(node, [None] * len(formats))
        if grad is not None:
            dtype, shape = formats[place]
            grad = (grad if grad.shape == shape else grad.sum_to_size(shape)).to(dtype)
            known = slots[place]
            slots[place] = grad if known is None else known + grad
        waiting[node] -= 1
        if not waiting[node]:
            ready.append(node)

    with torch.no_grad():
        for edge, given in zip(edges, grads, strict=True):
            deliver(edge.node, edge.output_nr, given)
        while ready:
            node = ready.pop()
            if not node.next_functions:
                continue  # a leaf, which keeps what it received
            for (following, place), grad in _run(node, received.pop(node)):
                deliver(following, place, grad)
    return [received.get(leaf, [None])[0] for leaf in leaves]


def _edges_into(roots: Sequence[Any]) -> dict[Any, int]:
    """How many gradients each node of the graph waits for."""
    waiting: dict[Any, int] = defaultdict(int)
    todo = list(roots)
    while todo:
        node = todo.pop()
        waiting[node] += 1
        if waiting[node] == 1:
            todo += [following for following, _ in node.next_functions if following is not None]
    return waiting


def _run(node: Any, grads: Sequence[Tensor | None]) -> list[tuple[Any, Tensor | None]]:
    """The edges that leave a node, and their gradients."""
    edges = [edge for edge in node.next_functions if edge[0] is not None]
    if all(grad is None for grad in grads):
        return [(edge, None) for edge in edges]
    if isinstance(node, torch.autograd.function.BackwardCFunction):  # written in Python
        found = node.apply(*grads)
        wanted: Iterable[Any] = node.needs_input_grad
    else:
        found = node(*grads)
        wanted = [edge[0] is not None for edge in node.next_functions]
    results: Sequence[Any] = [found] if isinstance(found, Tensor) else found
    kept = [one for one, want in zip(results, wanted, strict=True) if want]
    return list(zip(edges, kept, strict=True))
