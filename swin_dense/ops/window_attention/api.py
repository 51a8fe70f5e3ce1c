"""Shifted-window multi-head self-attention: one function that checks its input and chooses.

=============  ==========================================================================
``impl``       backend
=============  ==========================================================================
``reference``  plain PyTorch (:mod:`~.reference`), any device
``sdpa``       PyTorch's fused attention (:mod:`~.sdpa`), any device
``cpu``        one gather in and one out (:mod:`~.cpu`), on CPUs; ``reference`` where PyTorch
               traces it or attention weights are dropped out
``triton``     our fused kernels (:mod:`~.triton.op`): CUDA devices of capability 8.0 or later,
               windows of 5 to 16, heads of 16, 32 or 64 channels, fp32, fp16 or bf16, no
               dropout of attention weights
``auto``       ``cpu`` on a CPU; on CUDA ``sdpa``, but ``reference`` in training, which is what
               mmdet's backbone computes; ``reference`` elsewhere
=============  ==========================================================================

A backbone with 'auto' calls this function on CUDA with the backend that it found to be the fastest
for a whole block, see :mod:`~.backbones.tuning`; what the table says holds for other callers, and
for blocks that are traced, or have adapters, hooks or other layers than Swin's. The choice of
'auto' is logged at debug level, once per configuration. While torch.compile or
torch.export traces, all but ``triton`` are replaced by :mod:`~.compiled`, whose graph is valid for
inputs of any size. Backends never import each other: they meet here.

With ``tau`` this is the scaled cosine attention of Swin V2, by the same backends: see
:mod:`~.cosine`.
"""

import logging
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from swin_dense.ops.dispatch import (
    AttnImpl,
    differentiable_gradients,
    dynamo_disabled,
    is_eager,
    is_observed,
)
from swin_dense.ops.torch_versions import VERSION, is_compiling
from swin_dense.ops.window_attention import compiled, cosine, cpu, reference, sdpa
from swin_dense.ops.window_attention.triton import op as triton
from swin_dense.ops.window_attention.windows import WindowSpec

logger = logging.getLogger(__name__)

# Earlier, the graph breaks at the choice of PyTorch's kernel.
_COMPILES_SDPA = VERSION >= (2, 6)

_Inputs = tuple[Tensor, Tensor | None, Tensor | None, WindowSpec]


def shifted_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    *,
    num_heads: int,
    window_size: int,
    shift_size: int = 0,
    scale: float,
    dropout_p: float = 0.0,
    impl: str | AttnImpl = "auto",
    tau: Tensor | None = None,
) -> Tensor:
    """Self-attention within (shifted) windows of a feature map of any size (paper equation 4).

    Args:
        qkv: ``(B, H, W, 3 * C)``: queries, keys and values of every token, each C channels in
            ``num_heads`` groups. H, W >= 1; neither needs to be a multiple of the window.
        qkv_bias: ``(3 * C,)``, what q, k and v of a padded token are (never normalised); None for
            zero.
        position_bias: ``(num_heads, N, N)``, added to the scores of every window; None for none.
        num_heads: number of heads; C is a multiple of it.
        window_size: side M of a window in tokens; N = M * M.
        shift_size: cyclic shift in tokens, 0 <= shift < M.
        scale: factor of the dot products.
        dropout_p: probability that an attention weight is dropped.
        impl: see the table at the top of this module. One asked for by name is used or raises.
        tau: ``(num_heads,)``, factors of cosines, which then take the place of dot products; with
            ``scale`` 1.

    Returns:
        ``(B, H, W, C)``, heads side by side.

    Raises:
        ValueError: shapes, shift or implementation are not as above.
    """
    name = (impl if isinstance(impl, AttnImpl) else AttnImpl.parse(impl)).name
    spec = WindowSpec(num_heads, window_size, shift_size, scale)
    _check_input(qkv, qkv_bias, position_bias, tau, spec)
    if name == "auto":
        name = choose(qkv)
        if not is_compiling():  # logging would break the graph of torch.compile
            _log_choice(name, qkv.device.type, qkv.dtype, num_heads, window_size)
    if name == "triton":
        reason = triton.unsupported_reason(qkv, num_heads, window_size, dropout_p)
        if reason is not None:
            raise ValueError(f"attn_impl='triton' {reason}; use attn_impl='auto'")
        if is_eager(qkv, qkv_bias, position_bias) and not is_observed():
            return _attend(triton.kernels(), qkv, qkv_bias, position_bias, tau, spec)
    if name == "cpu" and not is_compiling():
        if qkv.is_cuda:
            raise ValueError("attn_impl='cpu' takes tensors on the CPU, got CUDA's; use 'auto'")
        if qkv.device.type == "cpu" and not dropout_p and is_eager(qkv):
            return _attend(cpu, qkv, qkv_bias, position_bias, tau, spec)
    qkv = qkv if tau is None else cosine.normalised(qkv, tau)
    return _plain(name, (qkv, qkv_bias, position_bias, spec), dropout_p)


def _plain(name: str, inputs: _Inputs, dropout_p: float) -> Tensor:
    """By operators that PyTorch knows, and so differentiates and traces itself."""
    if name == "triton":
        return triton.shifted_window_attention(*inputs[:3], *inputs[3])
    if is_compiling():
        attend = sdpa.attend if name == "sdpa" and _COMPILES_SDPA else compiled.attend
        return compiled.shifted_window_attention(*inputs, dropout_p, attend=attend)
    plain = sdpa if name == "sdpa" else reference
    return plain.shifted_window_attention(*inputs, dropout_p)


def choose(qkv: Tensor) -> str:
    """Name of the backend that 'auto' stands for with these queries, keys and values."""
    if qkv.device.type == "cpu":
        return "cpu"
    training = torch.is_grad_enabled() and qkv.requires_grad
    # A compiler fuses neither, and the reference would keep all scores.
    return "sdpa" if qkv.is_cuda and (is_compiling() or not training) else "reference"


@lru_cache
def _log_choice(
    name: str, device: str, dtype: torch.dtype, num_heads: int, window_size: int
) -> None:
    logger.debug(
        "attn_impl='auto' is %r for %s %s, window %d, %d heads",
        name, device, dtype, window_size, num_heads,
    )  # fmt: skip


def _check_input(
    qkv: Tensor, qkv_bias: Tensor | None, position_bias: Tensor | None, tau: Tensor | None,
    spec: WindowSpec,
) -> None:  # fmt: skip
    num_heads, window_size, shift_size, scale = spec
    if qkv.ndim != 4 or qkv.shape[-1] % (3 * num_heads):
        raise ValueError(
            f"qkv must be (B, H, W, 3 * C) with C a multiple of num_heads={num_heads}, "
            f"got {tuple(qkv.shape)}"
        )
    if qkv_bias is not None and qkv_bias.shape != qkv.shape[-1:]:
        raise ValueError(f"qkv_bias must be ({qkv.shape[-1]},), got {tuple(qkv_bias.shape)}")
    expected = (num_heads, window_size**2, window_size**2)
    if position_bias is not None and position_bias.shape != expected:
        raise ValueError(f"position_bias must be {expected}, got {tuple(position_bias.shape)}")
    if not 0 <= shift_size < window_size:
        raise ValueError(f"shift_size must be in [0, {window_size}), got {shift_size}")
    if tau is not None and (tau.shape != (num_heads,) or scale != 1):
        got = f"{tuple(tau.shape)} and {scale}"
        raise ValueError(f"tau must be ({num_heads},) and scale 1, got {got}")


@dynamo_disabled
def _attend(
    backend: Any, qkv: Tensor, qkv_bias: Tensor | None, position_bias: Tensor | None,
    tau: Tensor | None, spec: WindowSpec,
) -> Tensor:  # fmt: skip
    """A backend that has its own backward pass: a module with ``forward`` and ``backward``."""
    if torch.is_grad_enabled():
        return _Attention.apply(backend, qkv, qkv_bias, position_bias, tau, spec)
    qkv = qkv if tau is None else cosine.normalise(qkv, tau)[0]
    return backend.forward(qkv, qkv_bias, position_bias, spec)


class _Attention(torch.autograd.Function):
    """Keeps its arguments and nothing else."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, backend: Any, qkv: Tensor, qkv_bias: Tensor | None, position_bias: Tensor | None,
        tau: Tensor | None, spec: WindowSpec,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(qkv, qkv_bias, position_bias, tau)
        ctx.backend, ctx.spec = backend, spec
        qkv = qkv if tau is None else cosine.normalise(qkv, tau)[0]
        return backend.forward(qkv, qkv_bias, position_bias, spec)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:  # type: ignore[override]
        qkv, *biases, tau = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradients will be differentiated
            inputs = (qkv, *biases, tau, ctx.spec)
            return None, *differentiable_gradients(_by_reference, inputs, grad)
        wanted = ctx.needs_input_grad[2:4]
        if tau is None:
            grads = ctx.backend.backward(grad, qkv, *biases, ctx.spec, *wanted)
            return None, *grads, None, None
        unit, inverse = cosine.normalise(qkv, tau)
        d_unit, *d_biases = ctx.backend.backward(grad, unit, *biases, ctx.spec, *wanted)
        d_qkv, d_tau = cosine.normalise_backward(d_unit, unit, inverse, tau)
        return None, d_qkv, *d_biases, d_tau, None


def _by_reference(
    qkv: Tensor, qkv_bias: Tensor | None, position_bias: Tensor | None, tau: Tensor | None,
    spec: WindowSpec,
) -> Tensor:  # fmt: skip
    qkv = qkv if tau is None else cosine.normalised(qkv, tau)
    return reference.shifted_window_attention(qkv, qkv_bias, position_bias, spec)


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Relative position bias B of equation 4: a table of offsets, read for every pair of tokens.

    Args:
        table: ``((2M - 1)^2, heads)``.
        index: ``(N, N)`` int64, see :func:`~.windows.relative_position_index`.

    Returns:
        ``(heads, N, N)``, contiguous.
    """
    if torch.is_grad_enabled() and is_eager(table, index):
        return _PositionBias.apply(table, index)
    return _look_up(table, index)


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    return table.t()[:, index.flatten()].view(-1, *index.shape)


class _PositionBias(torch.autograd.Function):
    """Sums gradients by a fixed gather, where PyTorch's indexing would have to sort."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        ctx.pairs = pairs_by_offset(len(index), index.device)
        return _look_up(table, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        padded = torch.cat([grad.flatten(1), grad.new_zeros(len(grad), 1)], dim=1)
        by_offset = padded.index_select(1, ctx.pairs.flatten()).view(-1, *ctx.pairs.shape)
        return by_offset.sum(-1).t(), None


@lru_cache(maxsize=8)
def pairs_by_offset(n_tokens: int, device: torch.device) -> Tensor:
    """Pairs of tokens that share a row of the bias table, ``((2M - 1)^2, N)`` int64.

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
