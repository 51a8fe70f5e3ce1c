"""Position parameters at another size than they were trained at."""

from __future__ import annotations

from math import isqrt

from torch import Tensor
from torch.nn import functional as F


def resize_bias_table(table: Tensor, rows: int) -> Tensor:
    """Relative position bias table for another window: ``((2M - 1)^2, heads) -> (rows, heads)``.

    Bicubic over the two offsets, as the official code does when the window changes.

    Raises:
        ValueError: either number of rows is not a square.
    """
    old, new = isqrt(table.shape[0]), isqrt(rows)
    if old**2 != table.shape[0] or new**2 != rows:
        raise ValueError(f"a bias table has (2M - 1)^2 rows, got {table.shape[0]} and {rows}")
    grid = table.float().t().reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.reshape(-1, rows).t().to(table.dtype)


def resize_absolute_pos_embed(
    embed: Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Absolute position embedding at another size: ``(1, h * w, C) -> (1, H, W, C)``.

    Args:
        embed: one embedding per patch of the training image, row by row.
        grid: patches (h, w) of the training image.
        size: patches (H, W) that are asked for; bicubic unless equal to ``grid``.
    """
    table = embed.view(1, *grid, -1)
    if size == grid:
        return table
    table = table.permute(0, 3, 1, 2)
    table = F.interpolate(table, size=size, mode="bicubic", align_corners=False)
    return table.permute(0, 2, 3, 1)
