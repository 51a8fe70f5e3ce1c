"""Kernels and bytes of a step, counted operator by operator without a GPU.

Bytes are those that kernels have to read and write: every tensor that a kernel takes, and every one
that it makes, once. A tensor that is expanded counts with the numbers that it has in memory. Caches
are left out: neither what a kernel reads a second time counts, nor is anything subtracted that the
kernel before left in the L2 cache.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import flop_counter

from swin_dense.benchmarks.kernel_code import Launch, Target, record_launches
from swin_dense.benchmarks.kernels import describe
from swin_dense.benchmarks.measurement import Rates, Step
from swin_dense.ops.dispatch import OperatorCounter


class Gpu(NamedTuple):
    """A GPU that need not be there.

    Attributes:
        target: what Triton kernels are compiled for.
        rates: of copies and of matrix products.
        clock: cycles a second.
    """

    target: Target
    rates: Rates
    clock: float


class Cost(NamedTuple):
    """Kernels, the bytes that they read and write, and the least time that they take.

    The time of a kernel is that of its bytes at the rate of copies; or, if that is longer, of its
    multiplications at the rate of matrix products, or in Triton of the instructions that it issues
    (see :data:`~.kernels.ISSUE_SLOTS`).
    """

    kernels: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def __add__(self, other: Any) -> "Cost":
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


Costs = dict[str, Cost]


def total(costs: Costs) -> Cost:
    """Of all operators."""
    return sum(costs.values(), Cost())


class Call(NamedTuple):
    """An operator that was called: its name, arguments, and the bytes that it takes and makes."""

    name: str
    args: Sequence[Any]
    read: int
    written: int


# Kernels and bytes of a call.
Passes = tuple[int, int]


def _one_kernel(call: Call) -> Passes:
    return 1, call.read + call.written


def _roll(call: Call) -> Passes:
    axes = max(1, len(call.args[2]))  # one after the other
    return axes, axes * (call.read + call.written)


def _pad(call: Call) -> Passes:
    if max(call.args[1]) <= 0:  # what is left is copied
        return 1, 2 * call.written
    return _fill_and_copy(call)


def _fill_and_copy(call: Call) -> Passes:
    return 2, call.written + 2 * call.read


def _masked_fill(call: Call) -> Passes:
    return 2, call.read + 3 * call.written  # a copy, which is then read and written


def _layer_norm_backward(call: Call) -> Passes:
    dx, *parameters = call.args[-1]  # which are wanted: a kernel each, that reads everything
    kernels = dx + any(parameters)
    return kernels, kernels * call.read + call.written


def _convolution_backward(call: Call) -> Passes:
    d_out, x, weight = map(stored_bytes, call.args[:3])
    read = (d_out + weight, d_out + x, d_out)  # for dx, the weight, the bias
    wanted = [size for size, want in zip(read, call.args[-1], strict=True) if want]
    return len(wanted), sum(wanted) + call.written


def _im2col(call: Call) -> Passes:
    return len(call.args[0]), call.read + call.written  # image by image


def _multi_tensor(call: Call) -> Passes:
    """Lists of tensors, as many in a kernel as it can take (``MultiTensorApply.cuh``)."""
    lists = [one for one in call.args if isinstance(one, list) and isinstance(one[0], Tensor)]
    # Before CUDA 13, by the number of lists that are read or written.
    most = {1: 110, 2: 64, 3: 48, 4: 36}[len(lists) + (not call.name.endswith("_"))]
    one_by_one = any(len({x.dtype for x in one}) > 1 for one in lists) or any(
        len({(x.shape, x.stride()) for x in together}) > 1 for together in zip(*lists, strict=True)
    )
    kernels = tensors = chunks = 0
    for x in lists[0]:
        tensors += 1
        for left in reversed(range(-(-x.numel() // _CHUNK))):
            chunks += 1
            if chunks == _MOST_CHUNKS or (tensors == most and not left):
                kernels, chunks, tensors = kernels + 1, 0, int(left > 0)
    return len(lists[0]) if one_by_one else kernels + (chunks > 0), call.read + call.written


# Operators that launch several kernels, or read a tensor more than once; read from PyTorch's
# sources (aten/src/ATen/native). All others count as one kernel, which is the least.
_PASSES: dict[str, Callable[[Call], Passes]] = {
    "roll": _roll,
    "constant_pad_nd": _pad,
    "slice_backward": _fill_and_copy,
    "select_backward": _fill_and_copy,
    "masked_fill": _masked_fill,
    "native_layer_norm_backward": _layer_norm_backward,
    "convolution_backward": _convolution_backward,
    "im2col": _im2col,
}
# These copy what they take first if it is not contiguous.
_CONTIGUOUS = (
    *("roll", "im2col", "col2im", "_softmax", "_softmax_backward_data"),
    *("native_layer_norm", "native_layer_norm_backward"),
)
# Of operators on lists: numbers that a block of a kernel works on, and blocks of a kernel.
_CHUNK, _MOST_CHUNKS = 65536, 320
_WITHOUT_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
# These write over their first argument and do not read it.
_OVERWRITING = ("copy_", "fill_", "zero_", "bernoulli_", "uniform_", "normal_", "random_")


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of the numbers in memory that a tensor shows: those of an expanded axis once."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= size if stride or not size else 1
    return numbers * tensor.element_size()


class _Operators(OperatorCounter):
    """Counts PyTorch's operators on CUDA."""

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self.rates = rates
        self.costs: Costs = defaultdict(Cost)

    def see(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        name = func.overloadpacket.__name__
        lists = name.startswith("_foreach_")
        made = list(_on_cuda(args[:1] if lists and out is None else [out]))
        taken = _taken(name.removeprefix("_foreach_"), args, kwargs, made)
        from_host = name in ("copy_", "_to_copy") and not taken
        if not made or name in _WITHOUT_KERNEL or from_host:
            return
        call = Call(name, args, sum(map(stored_bytes, taken)), sum(map(stored_bytes, made)))
        kernels, size = (_multi_tensor if lists else _PASSES.get(name, _one_kernel))(call)
        if name in _CONTIGUOUS:
            copied = [x for x in taken if not x.is_contiguous()]
            kernels += len(copied)
            size += sum(stored_bytes(x) + x.numel() * x.element_size() for x in copied)
        flops = flop_counter.flop_registry.get(func.overloadpacket)
        products = flops(*args, **kwargs, out_val=out) if flops else 0
        seconds = max(size / self.rates.copy, products / self.rates.matmul)
        self.costs[name] += Cost(kernels, size, seconds)


def _taken(name: str, args: Any, kwargs: Any, made: list[Tensor]) -> list[Tensor]:
    """Arguments whose numbers an operator reads, each once."""
    only_shape = name.startswith("new_") or name.endswith("_like")
    positional = args[1:] if name in _OVERWRITING or only_shape else args
    results = set(map(id, made))  # by keyword, a result is only written
    found = [*positional, *(one for one in kwargs.values() if id(one) not in results)]
    return list({id(one): one for one in _on_cuda(found)}.values())


def _on_cuda(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and value.is_cuda:
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _on_cuda(value)


def count(step: Step, gpu: Gpu) -> Costs:
    """Kernels and bytes of a step by the names of operators and Triton kernels, most bytes first.

    The step runs twice; what it keeps after the first time is not counted. Call this within
    :func:`~.without_gpu.without_gpu`; it needs what :func:`~.kernel_code.check_compiler` checks.
    """
    record_launches(step, gpu.target)
    with _Operators(gpu.rates) as operators:
        launches = record_launches(step, gpu.target)
    costs = operators.costs
    for launch in launches:
        costs[_name(launch)] += _cost(launch, gpu)
    return dict(sorted(costs.items(), key=lambda item: -item[1].bytes))


def _name(launch: Launch) -> str:
    """A kernel's name, after that of its room: 'block.mlp'."""
    room = launch.kernel.__module__.split(".triton")[0].rpartition(".")[2]
    return f"{room}.{launch.name}"


def _cost(launch: Launch, gpu: Gpu) -> Cost:
    cycles = 1e3 * describe(launch, gpu.target).get("issue_kcycles", 0.0)
    seconds = max(launch.bytes_moved / gpu.rates.copy, cycles / gpu.clock)
    return Cost(1, launch.bytes_moved, seconds)
