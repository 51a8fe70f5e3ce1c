"""Inference from CUDA graphs: one launch instead of the hundreds of a forward pass.

A graph is a recording of the kernels that one forward pass launches, with the addresses that they
read and write. So it is valid for one input shape, reads its input from a buffer of its own, and
for as long as the weights stay where they are; changes of weights in place take effect.
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
from swin_dense.ops.dispatch import is_eager, is_observed, storage_signature
from swin_dense.ops.torch_versions import autocast_dtype, fp32_settings
from swin_dense.ops.window_attention.windows import mask_store

logger = logging.getLogger(__name__)

FeatureMaps = tuple[Tensor, ...]
Forward = Callable[[Tensor], FeatureMaps]


class CudaGraphs:
    """The graphs of a backbone, for the ``size`` input shapes that were used last.

    Copies and pickles of it are empty. Calls from several threads and streams run one after the
    other. All graphs share one memory pool, as large as the largest needs, and keep the feature
    maps of each.
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

    def run(self, module: nn.Module, forward: Forward, x: Tensor) -> FeatureMaps:
        """``forward(x)``, from a graph where that is possible; see :func:`with_cuda_graphs`.

        Raises:
            UserError: the forward pass cannot be recorded.
        """
        weights = storage_signature(module) if self.size and _is_inference(module, x) else None
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

    def _find(self, forward: Forward, x: Tensor) -> _Graph | None:
        key = (x.shape, x.dtype, x.device, *_settings())
        if key not in self._graphs:
            while len(self._graphs) >= self.size:
                self._drop_oldest()
            self._graphs[key] = self._capture(forward, x)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _capture(self, forward: Forward, x: Tensor) -> _Graph | None:
        # A pool lives as long as one of its graphs; the first one opens a new pool.
        other = next((graph for graph in self._graphs.values() if graph is not None), None)
        try:
            return _Graph(forward, x, other)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
        logger.warning(
            "no memory for a CUDA graph of input shape %s: running without; use fewer cuda_graphs",
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

    It shares memory with the ``other`` graph, so the two never run at the same time.
    """

    def __init__(self, forward: Forward, x: Tensor, other: _Graph | None = None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._masks: dict[tuple, Tensor] = {}
        # Tensors of inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(x.device):
            self._stream: torch.cuda.Stream = other._stream if other else torch.cuda.Stream()
            self._done: torch.cuda.Event = other._done if other else torch.cuda.Event()
            self._input = torch.empty_like(x, memory_format=torch.contiguous_format).copy_(x)
            self._stream.wait_stream(torch.cuda.current_stream())
            # Entered here although a capture does so too: a failed one does not restore it.
            with torch.cuda.stream(self._stream), _autocast(), mask_store(self._masks):
                # Not recorded: what happens only once, such as loading kernels and making masks.
                forward(self._input)
                pool = None if other is None else other._graph.pool()
                self._outputs = self._record(forward, pool)

    def _record(self, forward: Forward, pool: Any) -> FeatureMaps:
        # "thread_local": other threads, such as a data loader's, may use CUDA meanwhile.
        capture = torch.cuda.graph(self._graph, pool, self._stream, "thread_local")
        try:
            with capture:
                return forward(self._input)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"the forward pass cannot be recorded as a CUDA graph ({reason}); set cuda_graphs=0"
            ) from error

    def replay(self, x: Tensor) -> FeatureMaps:
        """The feature maps of x; copies, as the next replay overwrites the graph's own."""
        with torch.cuda.device(x.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)
            self._input.copy_(x)
            self._graph.replay()
            outputs = tuple(out.clone() for out in self._outputs)
            self._done.record(stream)
        return outputs

    def wait(self) -> None:
        """Wait until the GPU has finished the last replay."""
        self._done.synchronize()


def with_cuda_graphs(
    forward: Callable[[Any, Tensor], FeatureMaps],
) -> Callable[[Any, Tensor], FeatureMaps]:
    """Give a module's ``forward`` to the :class:`CudaGraphs` that is its ``cuda_graphs``.

    A graph is used for inference only: with a CUDA tensor, without gradients, in evaluation mode,
    eager, and without hooks, which a replay would not call.
    """

    @wraps(forward)
    def run(self: Any, x: Tensor) -> FeatureMaps:
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
        and not is_observed()  # nobody would see what a replay computes
        # DataParallel's replicas, new in every call, share the attributes of their model.
        and not getattr(module, "_is_replica", False)
    )


def _is_on_gpu(x: Tensor) -> bool:
    """Whether x is on a GPU that is not recording already."""
    return x.is_cuda and not torch.cuda.is_current_stream_capturing()


def _settings() -> tuple[Any, ...]:
    """What else decides which kernels run."""
    return (
        autocast_dtype("cuda"),
        *fp32_settings(),
        torch.are_deterministic_algorithms_enabled(),
    )


def _autocast() -> torch.autocast:
    """Autocast as it is, but weights are cast in every replay, as they may have changed."""
    dtype = autocast_dtype("cuda")
    return torch.autocast("cuda", dtype=dtype, enabled=dtype is not None, cache_enabled=False)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this error, or one that led to it, is about missing memory."""
    while error is not None and not isinstance(error, torch.cuda.OutOfMemoryError):
        error = error.__context__
    return error is not None
