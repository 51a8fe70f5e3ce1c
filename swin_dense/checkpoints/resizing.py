"""Resizing weights to another window, image size or number of image channels."""

from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.checkpoints.layouts.base import ABSOLUTE, INDEX, TABLE, State, one_row_per_patch

_PROJECTION = "patch_embed.projection.weight"


def resize_weights(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], grid: tuple[int, int]
) -> tuple[State, list[str]]:
    """Resize what differs in window, image size or image channels.

    Args:
        state: a backbone's weights in OpenMMLab's layout.
        own: parameters and buffers of the backbone that is to receive them.
        grid: patches (rows, columns) of its absolute position embedding.

    Returns:
        The weights, unchanged where they cannot be resized, and the names of the resized ones.
    """
    weights = dict(state)
    resized = []
    for key, wanted in own.items():
        if key.endswith(INDEX) and key.replace(INDEX, TABLE) in weights:
            weights[key] = wanted  # it follows from the window, not from a checkpoint
        elif key in weights:
            value = _resize(key, weights[key], wanted, grid)
            if value.numel() != weights[key].numel():
                resized.append(key)
            weights[key] = value
    return weights, resized


def _resize(key: str, value: Tensor, wanted: Tensor, grid: tuple[int, int]) -> Tensor:
    """The parameter at the wanted size, or itself where it cannot be resized."""
    if key == ABSOLUTE:
        return _resize_stored_embedding(value, wanted, grid)
    if value.shape == wanted.shape:
        return value
    if key.endswith(TABLE):
        same_heads = value.ndim == 2 and value.shape[1:] == wanted.shape[1:]
        if same_heads and isqrt(len(value)) ** 2 == len(value):
            return resize_bias_table(value, len(wanted))
    if key == _PROJECTION and value.ndim == 4 and value[:, 0].shape == wanted[:, 0].shape:
        return resize_input_channels(value, wanted.shape[1])
    return value


def _resize_stored_embedding(value: Tensor, wanted: Tensor, grid: tuple[int, int]) -> Tensor:
    rows = one_row_per_patch(value)
    is_map = value.ndim == 4  # as official detection stores it: the grid is known
    stored = (value.shape[2], value.shape[3]) if is_map else guess_grid(rows.shape[1], grid)
    if stored is None or rows.shape[2] != wanted.shape[2]:
        return value
    # In the precision of the module: CPUs cannot interpolate every other.
    return resize_absolute_pos_embed(rows.to(wanted.dtype), stored, grid).reshape(wanted.shape)


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
        size: patches (H, W) of the result; bicubic unless equal to ``grid``.
    """
    table = embed.view(1, *grid, -1)
    if size == grid:
        return table
    table = table.permute(0, 3, 1, 2)
    table = F.interpolate(table, size=size, mode="bicubic", align_corners=False)
    return table.permute(0, 2, 3, 1)


def guess_grid(patches: int, like: tuple[int, int]) -> tuple[int, int] | None:
    """The grid of an absolute position embedding of which only the number of patches is known.

    It is ``like`` if that has as many patches, else square, else in the proportions of ``like``;
    None if it can be none of these.
    """
    if like[0] * like[1] == patches:
        return like
    for height, width in ((1, 1), like):
        rows = isqrt(patches * height // width)
        if rows and rows**2 * width == patches * height and patches % rows == 0:
            return rows, patches // rows
    return None


def resize_input_channels(weight: Tensor, channels: int) -> Tensor:
    """A patch embedding for another number of image channels: ``(C, in, p, p) -> (C, n, p, p)``.

    Channels repeat in a cycle: the new one j is the old one j mod in, divided by how often that
    one occurs; with fewer new ones, all old ones of the same j are summed. An image that is equal
    in all channels (grey, for one channel) keeps its embedding.
    """
    old = weight.shape[1]
    cycle = torch.arange(max(old, channels))
    share = torch.zeros(old, channels)
    share[cycle % old, cycle % channels] = 1
    share = (share / share.sum(dim=1, keepdim=True)).double()
    return torch.einsum("oihw,ij->ojhw", weight.double(), share).to(weight.dtype)
