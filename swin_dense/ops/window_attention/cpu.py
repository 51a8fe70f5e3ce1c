"""Shifted-window attention for CPUs, where moving numbers costs more than multiplying them.

Three things set it apart from :mod:`~.reference`:

- A token goes from the map to its window, and its result back, by one gather each; padding,
  roll, partition and the split into heads are in the index, which is made once per size.
- Windows are taken some at a time, so that their scores stay in the cache, and the backward
  pass computes them anew: nothing but the input is kept.
- The weight of a masked pair is about exp(-100), a denormal number, which makes a processor's
  multiplications a hundred times slower. Such weights are left out; no sum can feel them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swin_dense.ops.dispatch import differentiable_gradients, is_eager, out_of_graphs
from swin_dense.ops.window_attention import reference, windows

# Scores that are worked on at once, in numbers: 2 MB, which the cores' own caches hold.
_CHUNK = 2**19
# exp() of a score this far below its row's largest is less than the least normal float.
_NEGLIGIBLE = -87.0


class _Chunk(NamedTuple):
    """Some windows of an image. Rows are those of a map seen as ``(H * W * groups, C / heads)``."""

    qkv_rows: Tensor  # (3 * heads * n * N,): the row of each q, k and v in a map of 3C channels
    out_rows: Tensor  # (heads * n * N,): the row of each result in a map of C channels
    padding: tuple[Tensor, Tensor]  # (window, token) of those that no row holds
    masked: Tensor  # (k, N, N): pairs of two regions, for the last k of the n windows


class _Plan(NamedTuple):
    """An image's way to windows and back."""

    chunks: tuple[_Chunk, ...]
    qkv_back: Tensor  # (H * W * 3 * heads,): where in the chunks a row of q, k, v has gone
    out_back: Tensor  # (H * W * heads,): where in the chunks a row of the result is


# Two entries a stage: enough for one input size at a time, and little memory to hold on to.
@lru_cache(maxsize=8)
def _plan(
    height: int, width: int, window_size: int, shift_size: int, heads: int, largest: int
) -> _Plan:
    """Chunks of at most ``largest`` scores, those windows last that a shift has mixed."""
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
        return _Plan(tuple(chunks), *back)


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
    """Rows of tokens ``(n, N)`` in a map of so many rows a token, by group; -1 for padding."""
    group = torch.arange(groups)[:, None, None]
    return torch.where(tokens < 0, -1, tokens * groups + group).flatten()


def _inverse(parts: Sequence[Tensor], groups: int, size: int) -> Tensor:
    """Where each of ``size`` rows of a map stands among the rows of all parts."""
    rows = torch.cat([_rows(tokens, groups) for tokens in parts])
    real = (rows >= 0).nonzero()[:, 0]
    back = torch.empty(size, dtype=torch.int32)
    back[rows[real]] = real.int()
    return back


def _windows(qkv: Tensor, qkv_bias: Tensor | None, chunk: _Chunk, heads: int, n: int) -> Tensor:
    """One image's map ``(H, W, 3C)`` to the q, k, v of a chunk, ``(3, heads * windows, n, d)``."""
    rows = qkv.view(-1, qkv.shape[-1] // (3 * heads)).index_select(0, chunk.qkv_rows)
    rows = rows.view(3, heads, -1, n, rows.shape[-1])
    at = chunk.padding
    if len(at[0]):
        fill = rows.new_zeros(qkv.shape[-1]) if qkv_bias is None else qkv_bias.to(rows.dtype)
        rows[:, :, at[0], at[1]] = fill.view(3, heads, 1, -1)
    return rows.flatten(1, 2)


def _weights(
    q: Tensor, k: Tensor, bias: Tensor | None, chunk: _Chunk, heads: int, scale: float
) -> Tensor:
    """Softmax of the scores of a chunk, ``(heads * windows, N, N)``, of q's type."""
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
    if bias is not None:
        scores = scores.to(torch.promote_types(scores.dtype, bias.dtype))
        scores.unflatten(0, (heads, -1)).add_(bias[:, None])
    if len(chunk.masked):
        mixed = scores.unflatten(0, (heads, -1))[:, -len(chunk.masked) :]
        mixed.sub_(chunk.masked.to(mixed.dtype), alpha=100.0)
        mixed.sub_(mixed.amax(-1, keepdim=True))
        mixed.masked_fill_(mixed < _NEGLIGIBLE, -torch.inf)
    return scores.softmax(-1).to(q.dtype)


class _Attention(torch.autograd.Function):
    """Keeps its arguments and nothing else."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        qkv: Tensor,
        qkv_bias: Tensor | None,
        position_bias: Tensor | None,
        heads: int,
        window_size: int,
        shift_size: int,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(qkv, qkv_bias, position_bias)
        ctx.settings = heads, window_size, shift_size, scale
        b, h, w, c3 = qkv.shape
        plan = _plan(h, w, window_size, shift_size, heads, largest=_CHUNK)
        n, d = window_size**2, c3 // (3 * heads)
        out = qkv.new_empty(b, h, w, c3 // 3)
        results = qkv.new_empty(sum(chunk.out_rows.numel() for chunk in plan.chunks), d)
        with torch.autocast("cpu", enabled=False):
            for image, image_out in zip(qkv.contiguous(), out, strict=True):
                sizes = [chunk.out_rows.numel() for chunk in plan.chunks]
                for chunk, result in zip(plan.chunks, results.split(sizes), strict=True):
                    q, k, v = _windows(image, qkv_bias, chunk, heads, n)
                    weights = _weights(q, k, position_bias, chunk, heads, scale)
                    torch.bmm(weights, v, out=result.view(-1, n, d))
                torch.index_select(results, 0, plan.out_back, out=image_out.view(-1, d))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone will differentiate the gradient
            arguments = (*inputs, *ctx.settings)
            plain = reference.shifted_window_attention
            return tuple(differentiable_gradients(plain, arguments, grad))
        heads, window_size, shift_size, scale = ctx.settings
        qkv, qkv_bias, position_bias = inputs
        h, w = qkv.shape[1:3]
        plan = _plan(h, w, window_size, shift_size, heads, largest=_CHUNK)
        grads = _Gradients(plan, qkv, qkv_bias, position_bias, window_size**2, heads, scale)
        with torch.autocast("cpu", enabled=False):
            for i in range(len(qkv)):
                grads.add_image(i, grad[i].contiguous())
        return grads.qkv, grads.qkv_bias, grads.position_bias, None, None, None, None


class _Gradients:
    """Gradients of one call, image by image."""

    def __init__(
        self,
        plan: _Plan,
        qkv: Tensor,
        qkv_bias: Tensor | None,
        position_bias: Tensor | None,
        n_tokens: int,
        heads: int,
        scale: float,
    ) -> None:
        self.plan, self.heads, self.n_tokens, self.scale = plan, heads, n_tokens, scale
        self.inputs = qkv.contiguous(), qkv_bias, position_bias
        self.qkv = torch.empty_like(self.inputs[0])
        self.qkv_bias = None if qkv_bias is None else torch.zeros_like(qkv_bias)
        self.position_bias = None if position_bias is None else torch.zeros_like(position_bias)
        self.sizes = [chunk.qkv_rows.numel() for chunk in plan.chunks]
        self.results = qkv.new_empty(sum(self.sizes), qkv.shape[-1] // (3 * heads))

    def add_image(self, i: int, grad: Tensor) -> None:
        """Take the gradient ``(H, W, C)`` of the output of image i."""
        parts = self.results.split(self.sizes)
        for chunk, result in zip(self.plan.chunks, parts, strict=True):
            self._add_chunk(self.inputs[0][i], grad, chunk, result)
        rows = self.qkv[i].view(-1, self.results.shape[-1])
        torch.index_select(self.results, 0, self.plan.qkv_back, out=rows)

    def _add_chunk(self, qkv: Tensor, grad: Tensor, chunk: _Chunk, result: Tensor) -> None:
        _, qkv_bias, position_bias = self.inputs
        n, heads = self.n_tokens, self.heads
        q, k, v = _windows(qkv, qkv_bias, chunk, heads, n)
        p = _weights(q, k, position_bias, chunk, heads, self.scale)
        result = result.view(3, *q.shape)
        do = grad.view(-1, q.shape[-1]).index_select(0, chunk.out_rows).view(q.shape)
        at = chunk.padding
        do.view(heads, -1, *q.shape[1:])[:, at[0], at[1]] = 0
        dp = torch.bmm(do, v.transpose(1, 2))
        torch.bmm(p.transpose(1, 2), do, out=result[2])
        ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
        if self.position_bias is not None:
            by_head = ds.view(heads, -1, n, n)
            self.position_bias += by_head.sum(1, dtype=self.position_bias.dtype)
        result[0].baddbmm_(ds, k, beta=0, alpha=self.scale)
        result[1].baddbmm_(ds.transpose(1, 2), q, beta=0, alpha=self.scale)
        if self.qkv_bias is not None and len(at[0]):
            padded = result.view(3, heads, -1, *q.shape[1:])[:, :, at[0], at[1]]
            self.qkv_bias += padded.sum(2, dtype=self.qkv_bias.dtype).flatten()


def supports(qkv: Tensor, dropout_p: float) -> bool:
    """Whether this implementation can take such an input, rather than the reference."""
    return qkv.device.type == "cpu" and not dropout_p and is_eager(qkv)


@out_of_graphs
def shifted_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """Equal to :func:`.reference.shifted_window_attention` up to rounding.

    Arguments and result are those of :func:`~.api.shifted_window_attention`. What
    :func:`supports` refuses goes to the reference.

    Raises:
        ValueError: a tensor is on a CUDA device.
    """
    if qkv.is_cuda:
        raise ValueError("attn_impl='cpu' takes tensors on the CPU, got CUDA's; use 'auto'")
    arguments = qkv, qkv_bias, position_bias, num_heads, window_size, shift_size, scale
    if supports(qkv, dropout_p):
        return _Attention.apply(*arguments)
    return reference.shifted_window_attention(*arguments, dropout_p)
