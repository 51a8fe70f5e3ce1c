"""Which tensors a hand-written operator may touch."""

from __future__ import annotations

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
