"""Resizing weights to another window, image size or number of image channels."""

from collections.abc import Callable, Mapping
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.checkpoints.layouts.base import ABSOLUTE, INDEX, TABLE, State, one_row_per_patch
from swin_dense.errors import UserError

_PROJECTION = "patch_embed.projection.weight"


def resize_weights(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    grid: tuple[int, int],
    bias_tables: str = "bicubic",
) -> tuple[State, list[str]]:
    """Resize what differs in window, image size or image channels.

    Args:
        state: a backbone's weights in OpenMMLab's layout.
        own: parameters and buffers of the backbone that is to receive them.
        grid: patches (rows, columns) of its absolute position embedding.
        bias_tables: a name in :data:`BIAS_TABLES`: how these are resized.

    Returns:
        The weights, unchanged where they cannot be resized, and the names of the resized ones.
    """
    weights = dict(state)
    resized = []
    for key, wanted in own.items():
        if key.endswith(INDEX) and key.replace(INDEX, TABLE) in weights:
            weights[key] = wanted  # it follows from the window, not from a checkpoint
        elif key in weights:
            value = _resize(key, weights[key], wanted, grid, BIAS_TABLES[bias_tables])
            if value.numel() != weights[key].numel():
                resized.append(key)
            weights[key] = value
    return weights, resized


def _resize(
    key: str,
    value: Tensor,
    wanted: Tensor,
    grid: tuple[int, int],
    resize_table: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """The parameter at the wanted size, or itself where it cannot be resized."""
    if key == ABSOLUTE:
        return _resize_stored_embedding(value, wanted, grid)
    if value.shape == wanted.shape:
        return value
    if key.endswith(TABLE):
        same_heads = value.ndim == 2 and value.shape[1:] == wanted.shape[1:]
        if same_heads and isqrt(len(value)) ** 2 == len(value):
            return resize_table(value, len(wanted))
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
    old, new = _sides(table, rows)
    grid = table.float().t().reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.reshape(-1, rows).t().to(table.dtype)


def stretch_bias_table(table: Tensor, rows: int) -> Tensor:
    """As :func:`resize_bias_table`, with offsets near zero kept and far ones stretched.

    As in the authors' fine-tuning of SimMIM: the table's offsets 0, 1, 2, ... on each axis are
    moved to 0, 1, 1 + q, 1 + q + q^2, ..., where q makes the last one the last offset of the new
    window. A cubic spline through the moved values gives those at whole offsets. They search q
    between 1.01 and 1.5, as here, so tables for smaller windows are cut rather than squeezed.

    Source: remap_pretrained_keys_swin in utils.py of https://github.com/microsoft/SimMIM.

    Raises:
        ValueError: as of :func:`resize_bias_table`.
        UserError: the table is of windows of 1 or 2, which do not determine a cubic spline.
    """
    old, new = _sides(table, rows)
    if old < 4:
        raise UserError(f"bias_tables='geometric' needs windows of 3 or more, not {old // 2 + 1}")
    ratio = _growth(old // 2, new // 2)
    places = torch.cumsum(ratio ** torch.arange(old // 2, dtype=torch.float64), dim=0)
    places = torch.cat((-places.flip(0), places.new_zeros(1), places))
    spline = _cubic_spline(places, torch.arange(new, dtype=torch.float64) - new // 2)
    grid = table.double().t().reshape(-1, old, old)
    grid = spline @ grid @ spline.t()
    return grid.reshape(-1, rows).t().to(table.dtype)


# How bias tables can be resized.
BIAS_TABLES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "bicubic": resize_bias_table,
    "geometric": stretch_bias_table,
}


def _sides(table: Tensor, rows: int) -> tuple[int, int]:
    """Offsets on each axis, 2M - 1, of a bias table and of one of so many rows."""
    old, new = isqrt(table.shape[0]), isqrt(rows)
    if old**2 != table.shape[0] or new**2 != rows:
        raise ValueError(f"a bias table has (2M - 1)^2 rows, got {table.shape[0]} and {rows}")
    return old, new


def _growth(steps: int, length: int) -> float:
    """The q of 1 + q + q^2 + ..., ``steps`` terms, whose sum is ``length``."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        middle = (low + high) / 2
        if (1 - middle**steps) / (1 - middle) > length:
            high = middle
        else:
            low = middle
    return middle


def _cubic_spline(places: Tensor, wanted: Tensor) -> Tensor:
    """The matrix that takes values at ``places`` to those of their cubic spline at ``wanted``.

    It is the spline without knots at the second place and the last but one; beyond the ends, the
    values there.
    """
    count, steps = len(places), places.diff()
    # What gives the second derivatives: system @ them = right @ values.
    system, right = places.new_zeros(2, count, count)
    for i in range(1, count - 1):
        before, after = steps[i - 1], steps[i]
        system[i, i - 1 : i + 2] = torch.stack((before, 2 * (before + after), after))
        right[i, i - 1 : i + 2] = 6 * torch.stack((1 / before, -1 / before - 1 / after, 1 / after))
    for row, i in ((0, 0), (count - 1, count - 3)):  # the third derivative is continuous
        system[row, i : i + 3] = torch.stack((steps[i + 1], -(steps[i] + steps[i + 1]), steps[i]))
    bend = torch.linalg.solve(system, right)
    wanted = wanted.clamp(places[0], places[-1])
    left = (torch.searchsorted(places, wanted, right=True) - 1).clamp(0, count - 2)
    values = torch.eye(count, dtype=places.dtype)
    step = steps[left, None]
    b = (wanted - places[left])[:, None] / step
    a = 1 - b
    curve = (a**3 - a) * bend[left] + (b**3 - b) * bend[left + 1]
    return a * values[left] + b * values[left + 1] + curve * step**2 / 6


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
