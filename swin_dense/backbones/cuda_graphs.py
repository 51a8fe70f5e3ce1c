"""Inference from CUDA graphs: one launch instead of the hundreds of a forward pass.

A graph is a recording of the kernels that one forward pass launches, with the addresses they read
and write. So it serves one input shape, reads its input from a place of its own, and holds for as
long as the weights stay where they are; what is written into them in place, it sees.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.errors import UserError
from swin_dense.ops.dispatch import is_eager
from swin_dense.ops.window_attention.windows import keep_masks

logger = logging.getLogger(__name__)

Maps = tuple[Tensor, ...]


class CudaGraphs:
    """The graphs of a backbone, for the ``size`` shapes that were used last.

    Copies and pickles of it are empty. Calls from several threads and streams take turns. All
    graphs share one pool of memory, which is that of the largest, and keep the maps of each.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = RLock()
        self._graphs: OrderedDict[tuple, _Graph | None] = OrderedDict()
        self._weights: list[int] = []

    def __len__(self) -> int:
        return len(self._graphs)

    def __reduce__(self) -> tuple[type[CudaGraphs], tuple[int]]:
        return type(self), (self.size,)

    def clear(self) -> None:
        """Drop all graphs, and with them their memory."""
        with self._lock:
            while self._graphs:
                self._drop_oldest()

    def run(self, module: nn.Module, forward: Callable[[Tensor], Maps], x: Tensor) -> Maps:
        """``forward(x)``, from a graph where one can stand for it; see :func:`graphed`.

        Raises:
            UserError: the forward pass does what cannot be recorded.
        """
        weights = _weights(module) if self.size and _is_inference(module, x) else None
        if weights is None:
            return forward(x)
        with self._lock:
            if weights != self._weights:
                self.clear()
                self._weights = weights
            graph = self._find(forward, x)
            if graph is not None:
                return graph.replay(x)
        return forward(x)

    def _find(self, forward: Callable[[Tensor], Maps], x: Tensor) -> _Graph | None:
        key = (x.shape, x.dtype, x.device, *_settings())
        if key not in self._graphs:
            while len(self._graphs) >= self.size:
                self._drop_oldest()
            self._graphs[key] = self._capture(forward, x)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _capture(self, forward: Callable[[Tensor], Maps], x: Tensor) -> _Graph | None:
        # A pool lives as long as one of its graphs; the first one opens a new pool.
        other = next((graph for graph in self._graphs.values() if graph is not None), None)
        try:
            return _Graph(forward, x, other)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
        logger.warning(
            "no memory for a CUDA graph of an input %s: it runs without; use fewer cuda_graphs",
            tuple(x.shape),
        )
        self.clear()
        return None

    def _drop_oldest(self) -> None:
        _, graph = self._graphs.popitem(last=False)
        if graph is not None:
            graph.wait()


class _Graph:
    """A recorded forward pass, with its input, its outputs and the masks that it reads.

    It shares memory with the ``other`` graph, so the two take turns on the GPU.
    """

    def __init__(
        self, forward: Callable[[Tensor], Maps], x: Tensor, other: _Graph | None = None
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._masks: dict[tuple, Tensor] = {}
        # Tensors of inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(x.device):
            self._stream: torch.cuda.Stream = other._stream if other else torch.cuda.Stream()
            self._done: torch.cuda.Event = other._done if other else torch.cuda.Event()
            self._input = torch.empty_like(x, memory_format=torch.contiguous_format).copy_(x)
            self._stream.wait_stream(torch.cuda.current_stream())
            # Entered here although a capture does so too: one that fails does not come back.
            with torch.cuda.stream(self._stream), _autocast(), keep_masks(self._masks):
                # Unrecorded, for what is done but once: kernels loaded, masks made.
                forward(self._input)
                pool = None if other is None else other._graph.pool()
                self._outputs = self._record(forward, pool)

    def _record(self, forward: Callable[[Tensor], Maps], pool: Any) -> Maps:
        # "thread_local": other threads, a data loader's for one, may go on meanwhile.
        capture = torch.cuda.graph(self._graph, pool, self._stream, "thread_local")
        try:
            with capture:
                return forward(self._input)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"the forward pass cannot be recorded as a CUDA graph ({reason}); set cuda_graphs=0"
            ) from error

    def replay(self, x: Tensor) -> Maps:
        """The maps of x; not those of the graph, which its next replay writes over."""
        with torch.cuda.device(x.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)
            self._input.copy_(x)
            self._graph.replay()
            maps = tuple(out.clone() for out in self._outputs)
            self._done.record(stream)
        return maps

    def wait(self) -> None:
        """Until the GPU has done the last replay."""
        self._done.synchronize()


def graphed(forward: Callable[[Any, Tensor], Maps]) -> Callable[[Any, Tensor], Maps]:
    """Give a module's ``forward`` to the :class:`CudaGraphs` that is its ``cuda_graphs``.

    A graph stands in for it in inference alone: with a CUDA tensor, without gradients, in
    evaluation mode, eager, and with no hooks, which a replay would not call.
    """

    @wraps(forward)
    def run(self: Any, x: Tensor) -> Maps:
        graphs: CudaGraphs = self.cuda_graphs
        if not graphs.size:
            return forward(self, x)
        return graphs.run(self, lambda image: forward(self, image), x)

    return run


def _is_inference(module: nn.Module, x: Tensor) -> bool:
    return (
        is_eager(x)
        and _is_on_gpu(x)
        and x.numel() > 0
        and not torch.is_grad_enabled()
        # Nobody looks on, at operators or at parts.
        and not torch._C._len_torch_dispatch_stack()
        and not torch.nn.modules.module._has_any_global_hook()
        # DataParallel's copies, new in every call, share the attributes of their model.
        and not getattr(module, "_is_replica", False)
    )


def _is_on_gpu(x: Tensor) -> bool:
    """Whether x is on a GPU that is not recording already."""
    return x.is_cuda and not torch.cuda.is_current_stream_capturing()


def _weights(module: nn.Module) -> list[int] | None:
    """What a recording of this module depends on: its parts and where their tensors are.

    None if a part trains or has hooks. Written for speed, as every forward pass calls it.
    """
    found: list[int] = []
    todo = [module]
    while todo:
        part = todo.pop()
        # The backbone's own hooks are called around its forward pass, not in it.
        hooks = part is not module and (part._forward_hooks or part._forward_pre_hooks)
        if part.training or hooks:
            return None
        found.append(id(part))
        found += [p.data_ptr() for p in part._parameters.values() if p is not None]
        found += [b.data_ptr() for b in part._buffers.values() if b is not None]
        todo += [child for child in part._modules.values() if child is not None]
    return found


def _settings() -> tuple[Any, ...]:
    """What else decides which kernels run."""
    return (
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cuda"),
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        torch.are_deterministic_algorithms_enabled(),
    )


def _autocast() -> torch.autocast:
    """Autocast as it is, but weights are cast in every replay, as they may have changed."""
    return torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    )


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this error, or the one that it came up in, is a want of memory."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__context__
    return error is not None
