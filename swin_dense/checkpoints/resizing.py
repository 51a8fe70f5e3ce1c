"""Weights at another size than they were trained at."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt

import torch
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


def guess_grid(patches: int, like: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of an absolute position embedding that only says how many patches it has.

    It is taken to be as ``like`` if that has as many patches, else square, else of the
    proportions of ``like``; None if it can be none of these.
    """
    if like[0] * like[1] == patches:
        return like
    shapes: Iterable[tuple[int, int]] = ((h, patches // h) for h in range(1, patches + 1))
    fitting = [
        (h, w) for h, w in shapes if h * w == patches and (h == w or h * like[1] == w * like[0])
    ]
    return max(fitting, key=lambda grid: grid[0] == grid[1], default=None)


def resize_input_channels(weight: Tensor, channels: int) -> Tensor:
    """A patch embedding for another number of image channels: ``(C, in, p, p) -> (C, n, p, p)``.

    Channels repeat in a cycle: the new one j is the old one j mod in, divided by how often that
    one occurs; where there are fewer new ones, those that meet in j are summed. So an image that is
    equal in all channels (grey, for one channel) embeds as before.
    """
    old = weight.shape[1]
    cycle = torch.arange(max(old, channels))
    share = torch.zeros(old, channels)
    share[cycle % old, cycle % channels] = 1
    share = share / share.sum(dim=1, keepdim=True)
    mixed = torch.einsum("oihw,ij->ojhw", weight.double(), share.double())
    return mixed.to(weight.dtype)
