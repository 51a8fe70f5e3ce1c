"""What a step costs besides time: memory, and how many operators or kernels it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

MEMORY = {"cuda": "peak of allocated memory", "cpu": "tensors kept for backward"}
LAUNCHES = {"cuda": "kernels", "cpu": "operators"}


def training_costs(
    model: nn.Module, step: Callable[[], Any], device: torch.device
) -> dict[str, float]:
    """Launches and memory of a training step: ``launches`` and ``memory_mb``, in 1e6 bytes.

    On a GPU memory is the most that is allocated at a time during the step, plus the model's own
    parameters; what else was there before is taken off. On a CPU it is the tensors that forward
    keeps for backward, each storage once, without the parameters.

    Args:
        model: the model that ``step`` trains.
        step: forward and backward.
        device: where it runs.
    """
    if device.type == "cuda":
        memory, count = _peak(model, step, device), launches(step, device)
    else:  # both of one step: on a CPU that of a detector takes long
        with _Operators() as operators:
            memory = kept_for_backward(model, step)
        count = operators.count
    return {"launches": count, "memory_mb": round(memory / 1e6, 1)}


def _peak(model: nn.Module, step: Callable[[], Any], device: torch.device) -> int:
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before + own


def kept_for_backward(model: nn.Module, step: Callable[[], Any]) -> int:
    """Bytes of the tensors that ``step`` keeps for backward, without the model's parameters.

    Where ``step`` runs backward too, and a block is recomputed there by reentrant checkpointing,
    what that keeps is counted with the rest.
    """
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    # Held until the end: memory that is freed may be given out again, and would count once.
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and storage.data_ptr() not in kept:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values())


def launches(step: Callable[[], Any], device: torch.device) -> int:
    """Kernels that a step starts on a GPU; on a CPU, the operators that it runs."""
    if device.type == "cuda":
        return _kernels(step)
    with _Operators() as operators:
        step()
    return operators.count


class _Operators(TorchDispatchMode):
    """Counts operators that compute; those that only look at memory differently do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # _unsafe_view is a view whose source nobody else has
        self.count += not (func.is_view or func is torch.ops.aten._unsafe_view.default)
        return func(*args, **(kwargs or {}))


def _kernels(step: Callable[[], Any]) -> int:
    from torch.profiler import ProfilerActivity, profile

    step()  # what is compiled or chosen on the first call is not counted
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA
    names = [event.name for event in found.events() if event.device_type == kind]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in names)
