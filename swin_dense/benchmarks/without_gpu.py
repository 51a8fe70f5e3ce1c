"""CUDA without a GPU: tensors without numbers, autocast, and gradients.

PyTorch's own dispatcher chooses and casts, so that what runs here is what runs on a GPU, but for
what asks CUDA itself: its memory-efficient attention and autograd's engine have replacements.
"""

import heapq
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import graph
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from swin_dense.ops.dispatch import (
    efficient_attention,
    fake_cuda_tensors,
    gradient_formats,
    sequence_number,
)
from swin_dense.ops.window_attention.api import pairs_by_offset
from swin_dense.ops.window_attention.windows import mask_store


@contextmanager
def without_gpu() -> Iterator[None]:
    """Within it, tensors on CUDA have no numbers and need no GPU.

    Tensors made in it are of no use outside. Gradients are those of :func:`gradients`.
    """
    with warnings.catch_warnings(), fake_cuda_tensors(), _WithoutGpu(), mask_store({}):
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        pairs_by_offset.cache_clear()  # it keeps tensors
        try:
            yield
        finally:
            pairs_by_offset.cache_clear()


def to_cuda(model: nn.Module) -> None:
    """Replace parameters and buffers: ``nn.Module.to`` cannot make them tensors without numbers."""
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            empty = torch.empty(value.shape, dtype=value.dtype, device="cuda")
            setattr(module, name, nn.Parameter(empty, value.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))


@contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """CUDA's autocast, which ``torch.autocast`` turns off where there is no GPU; none for fp32."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if not torch.autocast_decrement_nesting():
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


class _WithoutGpu(TorchFunctionMode):
    """Replaces functions that ask CUDA for a GPU's properties or streams."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function of PyTorch."""
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            return _autograd_grad(*args, **kwargs)
        # Where there is no GPU, PyTorch takes plain arithmetic.
        fused = torch.backends.cuda.mem_efficient_sdp_enabled()
        if func is F.scaled_dot_product_attention and fused:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *others: Any, **options: Any
) -> Tensor:
    tensors: list[Any] = [q, k, v, attn_mask]
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        tensors = [None if x is None else x.to(dtype) for x in tensors]
    return efficient_attention(*tensors, *others, **options)


def _autograd_grad(outputs: Any, inputs: Any, grad_outputs: Any, **_: Any) -> tuple:
    as_lists = [[x] if isinstance(x, Tensor) else x for x in (outputs, inputs, grad_outputs)]
    return tuple(gradients(*as_lists))


def gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """What ``torch.autograd.grad`` returns, whose engine asks CUDA for streams: node by node.

    The order is the engine's, and so are the operators that run.

    Args:
        outputs: results.
        inputs: leaves.
        grads: gradients of the results.
    """
    edges = [graph.get_gradient_edge(x) for x in outputs]
    leaves = [graph.get_gradient_edge(x).node for x in inputs]
    waiting = _edges_into([edge.node for edge in edges])
    received: dict[Any, list[Tensor | None]] = {}
    ready: list[tuple[int, int, Any]] = []

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
            heapq.heappush(ready, (-sequence_number(node), id(node), node))

    with torch.no_grad():
        for edge, given in zip(edges, grads, strict=True):
            deliver(edge.node, edge.output_nr, given)
        while ready:
            node = heapq.heappop(ready)[2]
            if node.next_functions:  # else a leaf, which keeps what it received
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
