"""Adaptive pooling as a matrix product, which exports for feature maps of any size."""

from typing import Any

import torch
from torch import Tensor, nn


class AdaptiveAvgPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` for ``(B, C, H, W)``, equal up to rounding.

    PyTorch's own asks whether the size of the map is a multiple of the result's, which makes the
    graph one for the size that it was traced with.

    Args:
        rows, columns: of the result.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, rows, columns)``."""
        height, width = x.shape[2:]
        down = _averages(height, self.rows, x)
        across = _averages(width, self.columns, x)
        return torch.matmul(torch.matmul(down, x), across.t())


def _averages(size: int, parts: int, like: Tensor) -> Tensor:
    """Weights of the entries in each of the parts, ``(parts, size)``; parts may overlap."""
    part = torch.arange(parts, device=like.device)[:, None]
    start, end = part * size // parts, ((part + 1) * size + parts - 1) // parts
    at = torch.arange(size, device=like.device)
    return ((at >= start) & (at < end)).to(like.dtype) / (end - start)


def replace_pooling(module: nn.Module) -> None:
    """Puts :class:`AdaptiveAvgPool` in the place of every pooling to a fixed size in a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            size: Any = child.output_size
            rows, columns = (size, size) if isinstance(size, int) else size
            if rows and columns:
                setattr(module, name, AdaptiveAvgPool(rows, columns))
        else:
            replace_pooling(child)
