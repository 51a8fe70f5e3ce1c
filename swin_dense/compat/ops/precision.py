"""The precision the operators compute in."""

import torch
from torch import Tensor


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float32, or in float64 where one of them is; contiguous.

    Half precision is for storage: positions on a feature map of hundreds of pixels, computed in
    float16 or bfloat16, would be off by whole pixels, and torchvision's CPU kernels lack bfloat16.
    """
    dtype = torch.float64 if any(t.dtype is torch.float64 for t in tensors) else torch.float32
    return tuple(t.to(dtype).contiguous() for t in tensors)
