"""A pyramid of maps as one list of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Points(NamedTuple):
    """The N points of all levels, the finest level first, row by row.

    ``xy`` (N, 2) and ``strides`` (N,) are in pixels, ``levels`` (N,) counts from 0.
    """

    xy: Tensor
    strides: Tensor
    levels: Tensor


def pyramid_points(maps: Sequence[Tensor], strides: Sequence[int]) -> Points:
    """Points of maps ``(B, C, H_i, W_i)``; the first of each level is at the image's corner."""
    parts = []
    for level, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        xy = torch.cartesian_prod(rows, columns).flip(1).float() * stride
        parts.append((xy, xy.new_full((len(xy),), stride), rows.new_full((len(xy),), level)))
    return Points(*(torch.cat(part) for part in zip(*parts, strict=True)))


def flatten(maps: Sequence[Tensor]) -> Tensor:
    """Maps ``(B, C, H_i, W_i)`` of all levels to ``(B, N, C)`` in full precision."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1).float()
