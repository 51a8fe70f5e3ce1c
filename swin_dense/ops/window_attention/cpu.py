"""Shifted-window attention for CPUs, where moving numbers costs more than multiplying them.

It differs from :mod:`~.reference` in three ways:

- A token goes from the feature map to its window, and its result back, by one gather each;
  padding, roll, partition and the split into heads are in the index, which is made once per size.
- Windows are processed in chunks, so that their scores stay in the cache, and the backward pass
  computes them again: nothing but the input is kept.
- The weight of a masked pair is about exp(-100), a denormal number, which makes a processor's
  multiplications a hundred times slower. Such weights are set to zero; they are too small to
  change any sum.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from swin_dense.ops.dispatch import softmax_backward
from swin_dense.ops.window_attention import windows
from swin_dense.ops.window_attention.windows import WindowSpec

# Scores that are worked on at once, in numbers: 2 MB, which the cores' own caches hold.
_CHUNK = 2**19
# exp() of a score this far below its row's largest is less than the least normal float.
_NEGLIGIBLE = -87.0


class _Chunk(NamedTuple):
    """Some windows of an image; rows are those of ``(H * W * groups, C / heads)``."""

    qkv_rows: Tensor  # (3 * heads * n * N,): the row of each q, k and v among 3C channels
    out_rows: Tensor  # (heads * n * N,): the row of each result among C channels
    padding: tuple[Tensor, Tensor]  # (window, token) of padded tokens, which have no row
    masked: Tensor  # (k, N, N): pairs of two regions, for the last k of the n windows


class _Plan(NamedTuple):
    """How an image is cut into chunks of windows and put back together."""

    chunks: tuple[_Chunk, ...]
    qkv_sizes: list[int]  # rows of each chunk's q, k and v
    out_sizes: list[int]  # rows of each chunk's results
    qkv_back: Tensor  # (H * W * 3 * heads,): where in the chunks a row of q, k, v is
    out_back: Tensor  # (H * W * heads,): where in the chunks a row of the result is


# Two entries a stage: enough for one input size at a time, and little memory to hold on to.
@lru_cache(maxsize=8)
def _plan(
    height: int, width: int, window_size: int, shift_size: int, heads: int, largest: int
) -> _Plan:
    """Chunks of at most ``largest`` scores; windows that the shift has mixed come last."""
    # Made under inference mode, it could not serve a training step later.
    with torch.inference_mode(False), torch.device("cpu"):
        tokens = windows.window_tokens(height, width, window_size, shift_size)
        regions = torch.zeros_like(tokens)
        if shift_size:
            size = windows.padded_size(height, width, window_size)
            regions = windows.shift_regions(*size, window_size, shift_size)
        order = (regions != regions[:, :1]).any(1).sort(stable=True).indices
        n = max(1, largest // (heads * window_size**4))
        parts = tokens[order].split(n)
        chunks = [_chunk(*x, heads) for x in zip(parts, regions[order].split(n), strict=True)]
        back = [_inverse(parts, g, height * width * g) for g in (3 * heads, heads)]
        qkv_sizes = [chunk.qkv_rows.numel() for chunk in chunks]
        out_sizes = [chunk.out_rows.numel() for chunk in chunks]
        return _Plan(tuple(chunks), qkv_sizes, out_sizes, *back)


def _chunk(tokens: Tensor, regions: Tensor, heads: int) -> _Chunk:
    """Chunk of the windows that hold these tokens of these regions, both ``(n, N)``."""
    mixed = regions[(regions != regions[:, :1]).any(1)]
    rows, column = (tokens < 0).nonzero(as_tuple=True)
    return _Chunk(
        _rows(tokens, 3 * heads).clamp(min=0).int(),
        _rows(tokens, heads).clamp(min=0).int(),
        (rows, column),
        mixed[:, :, None] != mixed[:, None, :],
    )


def _rows(tokens: Tensor, groups: int) -> Tensor:
    """Rows of tokens ``(n, N)`` where a token has ``groups`` rows, by group; -1 for padding."""
    group = torch.arange(groups)[:, None, None]
    return torch.where(tokens < 0, -1, tokens * groups + group).flatten()


def _inverse(parts: Sequence[Tensor], groups: int, size: int) -> Tensor:
    """Where each of ``size`` rows of the feature map is among the rows of all parts."""
    rows = torch.cat([_rows(tokens, groups) for tokens in parts])
    real = (rows >= 0).nonzero()[:, 0]
    back = torch.empty(size, dtype=torch.int32)
    back[rows[real]] = real.int()
    return back


class _Scratch(NamedTuple):
    """Memory for one chunk after the other, which would else be allocated for each."""

    rows: Tensor  # (3 * heads * windows * N, d): q, k and v
    products: Tensor  # (heads * windows, N, N): of q and k, in their precision
    scores: Tensor  # the same with the bias, in the precision of both
    weights: Tensor  # their softmax


def _scratch(plan: _Plan, qkv: Tensor, bias: Tensor | None, spec: WindowSpec) -> _Scratch:
    """For any chunk of a plan; the first is the largest."""
    n = spec.window_size**2
    rows = qkv.new_empty(plan.qkv_sizes[0], qkv.shape[-1] // (3 * spec.num_heads))
    products = scores = qkv.new_empty(plan.out_sizes[0] // n, n, n)
    if bias is not None and bias.dtype != qkv.dtype:
        scores = products.to(torch.promote_types(qkv.dtype, bias.dtype))
    return _Scratch(rows, products, scores, torch.empty_like(scores))


def _windows(
    qkv: Tensor, qkv_bias: Tensor | None, chunk: _Chunk, spec: WindowSpec, scratch: _Scratch
) -> Tensor:
    """One image ``(H, W, 3C)`` to the q, k, v of a chunk, ``(3, heads * windows, N, d)``."""
    heads, n = spec.num_heads, spec.window_size**2
    rows = scratch.rows[: len(chunk.qkv_rows)]
    torch.index_select(qkv.view(-1, rows.shape[1]), 0, chunk.qkv_rows, out=rows)
    rows = rows.view(3, heads, -1, n, rows.shape[1])
    at = chunk.padding
    if len(at[0]):
        fill = rows.new_zeros(qkv.shape[-1]) if qkv_bias is None else qkv_bias.to(rows.dtype)
        rows[:, :, at[0], at[1]] = fill.view(3, heads, 1, -1)
    return rows.flatten(1, 2)


def _weights(
    q: Tensor, k: Tensor, bias: Tensor | None, chunk: _Chunk, spec: WindowSpec, scratch: _Scratch
) -> Tensor:
    """Softmax of the scores of a chunk, ``(heads * windows, N, N)``, of q's type."""
    size = len(q)
    products, scores = scratch.products[:size], scratch.scores[:size]
    weights = scratch.weights[:size]
    by_head = (spec.num_heads, -1, *scores.shape[1:])
    torch.bmm(q, k.transpose(1, 2), out=products)
    if bias is None:
        products.mul_(spec.scale)
    else:
        torch.add(bias[:, None], products.view(by_head), alpha=spec.scale, out=scores.view(by_head))
    if len(chunk.masked):
        mixed = scores.view(by_head)[:, -len(chunk.masked) :]
        mixed.sub_(chunk.masked.to(mixed.dtype), alpha=100.0)
        mixed.sub_(mixed.amax(-1, keepdim=True))
        mixed.masked_fill_(mixed < _NEGLIGIBLE, -torch.inf)
    torch.softmax(scores, -1, out=weights)
    return weights if weights.dtype == q.dtype else products.copy_(weights)


def forward(
    qkv: Tensor, qkv_bias: Tensor | None, position_bias: Tensor | None, spec: WindowSpec
) -> Tensor:
    """Attention without autograd; arguments are those of :func:`~.api.shifted_window_attention`.

    Returns:
        ``(B, H, W, C)``, equal to the reference's up to rounding.
    """
    b, h, w, c3 = qkv.shape
    num_heads, window_size, shift_size, _ = spec
    plan = _plan(h, w, window_size, shift_size, num_heads, largest=_CHUNK)
    n, d = window_size**2, c3 // (3 * num_heads)
    out = qkv.new_empty(b, h, w, c3 // 3)
    results = qkv.new_empty(sum(plan.out_sizes), d)
    scratch = _scratch(plan, qkv, position_bias, spec)
    with torch.autocast("cpu", enabled=False):
        for image, image_out in zip(qkv.contiguous(), out, strict=True):
            for chunk, result in zip(plan.chunks, results.split(plan.out_sizes), strict=True):
                q, k, v = _windows(image, qkv_bias, chunk, spec, scratch)
                weights = _weights(q, k, position_bias, chunk, spec, scratch)
                torch.bmm(weights, v, out=result.view(-1, n, d))
            torch.index_select(results, 0, plan.out_back, out=image_out.view(-1, d))
    return out


def backward(
    d_out: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    spec: WindowSpec,
    want_qkv_bias: bool,
    want_position_bias: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of qkv, and of the two biases where wanted."""
    h, w, c3 = qkv.shape[1:]
    num_heads, window_size, shift_size, scale = spec
    plan = _plan(h, w, window_size, shift_size, num_heads, largest=_CHUNK)
    n, d = window_size**2, c3 // (3 * num_heads)
    qkv = qkv.contiguous()
    d_qkv = torch.empty_like(qkv)
    d_qkv_bias = torch.zeros_like(qkv_bias) if want_qkv_bias and qkv_bias is not None else None
    d_bias = None
    if want_position_bias and position_bias is not None:
        d_bias = torch.zeros_like(position_bias)
    results = qkv.new_empty(sum(plan.qkv_sizes), d)
    scratch = _scratch(plan, qkv, position_bias, spec)
    with torch.autocast("cpu", enabled=False):
        for image, grad, d_image in zip(qkv, d_out, d_qkv, strict=True):
            grad_rows = grad.contiguous().view(-1, d)
            for chunk, result in zip(plan.chunks, results.split(plan.qkv_sizes), strict=True):
                q, k, v = _windows(image, qkv_bias, chunk, spec, scratch)
                p = _weights(q, k, position_bias, chunk, spec, scratch)
                do = grad_rows.index_select(0, chunk.out_rows).view(q.shape)
                at = chunk.padding
                do.view(num_heads, -1, n, d)[:, at[0], at[1]] = 0
                dq, dk, dv = result.view(3, *q.shape).unbind(0)
                torch.bmm(p.transpose(1, 2), do, out=dv)
                ds = softmax_backward(torch.bmm(do, v.transpose(1, 2)), p)
                if d_bias is not None:
                    d_bias += ds.view(num_heads, -1, n, n).sum(1)  # in fp32, rounded once
                dq.baddbmm_(ds, k, beta=0, alpha=scale)
                dk.baddbmm_(ds.transpose(1, 2), q, beta=0, alpha=scale)
                if d_qkv_bias is not None and len(at[0]):
                    padded = result.view(3, num_heads, -1, n, d)[:, :, at[0], at[1]]
                    d_qkv_bias += padded.sum(2, dtype=d_qkv_bias.dtype).flatten()
            torch.index_select(results, 0, plan.qkv_back, out=d_image.view(-1, d))
    return d_qkv, d_qkv_bias, d_bias
