"""Bringing a backbone's weights to the sizes of the module that is to receive them."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

from torch import Tensor

from swin_dense.checkpoints.layouts.base import ABSOLUTE, INDEX, TABLE, State, one_row_per_patch
from swin_dense.checkpoints.resizing import (
    guess_grid,
    resize_absolute_pos_embed,
    resize_bias_table,
    resize_input_channels,
)

_PROJECTION = "patch_embed.projection.weight"


def fit(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], grid: tuple[int, int]
) -> tuple[State, list[str]]:
    """Resize what differs in window, image size or image channels.

    Args:
        state: a backbone's weights in OpenMMLab's layout.
        own: the state dict of the backbone that is to receive them.
        grid: patches (rows, columns) of its absolute position embedding.

    Returns:
        The weights, with what cannot be resized as it was, and the names of what was resized.
    """
    fitted = dict(state)
    resized = []
    for key, wanted in own.items():
        if key.endswith(INDEX):
            # It follows from the window, so it is never taken from a checkpoint.
            if key.replace(INDEX, TABLE) in fitted:
                fitted[key] = wanted
        elif key in fitted:
            value = _resized(key, fitted[key], wanted, grid)
            if value.numel() != fitted[key].numel():
                resized.append(key)
            fitted[key] = value
    return fitted, resized


def _resized(key: str, value: Tensor, wanted: Tensor, grid: tuple[int, int]) -> Tensor:
    """The parameter at the wanted size, or itself where it cannot be brought there."""
    if key == ABSOLUTE:
        return _embedding(value, wanted, grid)
    if value.shape == wanted.shape:
        return value
    if key.endswith(TABLE):
        same_heads = value.ndim == 2 and value.shape[1:] == wanted.shape[1:]
        if same_heads and isqrt(len(value)) ** 2 == len(value):
            return resize_bias_table(value, len(wanted))
    if key == _PROJECTION and value.ndim == 4:
        resized = resize_input_channels(value, wanted.shape[1])
        return resized if resized.shape == wanted.shape else value
    return value


def _embedding(value: Tensor, wanted: Tensor, grid: tuple[int, int]) -> Tensor:
    rows = one_row_per_patch(value)
    is_map = value.ndim == 4  # as official detection stores it: the grid is known
    stored = (value.shape[2], value.shape[3]) if is_map else guess_grid(rows.shape[1], grid)
    if stored is None or rows.shape[2] != wanted.shape[2]:
        return value
    # In the precision of the module: CPUs cannot interpolate every other.
    return resize_absolute_pos_embed(rows.to(wanted.dtype), stored, grid).reshape(wanted.shape)
