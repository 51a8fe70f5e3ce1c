"""The relative position bias: a table of offsets, read for every pair of tokens of a window."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from swin_dense.ops.dispatch import is_eager


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Bias B of equation 4.

    Args:
        table: ``((2M - 1)^2, heads)``.
        index: ``(N, N)`` int64, see :func:`~.windows.relative_position_index`.

    Returns:
        ``(heads, N, N)``, contiguous.
    """
    if torch.is_grad_enabled() and is_eager(table, index):
        return _Lookup.apply(table, index)
    return _look_up(table, index)


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    return table.t()[:, index.flatten()].view(-1, *index.shape)


class _Lookup(torch.autograd.Function):
    """Differentiates by sums over fixed places, where PyTorch's indexing would have to sort."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        ctx.places = pairs_by_offset(len(index), index.device)
        return _look_up(table, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        pairs = torch.cat([grad.flatten(1), grad.new_zeros(len(grad), 1)], dim=1)
        by_offset = pairs.index_select(1, ctx.places.flatten()).view(-1, *ctx.places.shape)
        return by_offset.sum(-1).t(), None


@lru_cache(maxsize=8)
def pairs_by_offset(n_tokens: int, device: torch.device) -> Tensor:
    """Pairs of tokens that share a row of the table, ``((2M - 1)^2, N)`` int64.

    A pair is counted as query * N + key; rows with fewer than N pairs are filled up with N * N.
    """
    # Made under inference mode, it could not serve a training step later.
    with torch.inference_mode(False), torch.device("cpu"):
        m = int(n_tokens**0.5)
        step, place = torch.arange(1 - m, m), torch.arange(m)
        at = step[:, None] + place  # (2M - 1, M): the query's row (column), of an offset and a key
        inside = (at >= 0) & (at < m)
        query = at[:, None, :, None] * m + at[None, :, None, :]
        key = place[:, None] * m + place
        both = inside[:, None, :, None] & inside[None, :, None, :]
        pairs = torch.where(both, query * n_tokens + key, n_tokens**2)
        return pairs.view(-1, n_tokens).to(device)
