"""A block's layers around its attention, as functions of tensors with a backward of their own."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block import pytorch
from swin_dense.ops.block.layers import Linear, Norm, ParamGrads, ProjMlp, Scales
from swin_dense.ops.block.triton.support import unsupported_reason
from swin_dense.ops.dispatch import differentiable_gradients, dynamo_disabled

Gather = Callable[[Tensor], Tensor] | None

# Up to so many channels, fc1 is cheaper to recompute than its result is to keep.
RECOMPUTED_CHANNELS = 256


@dynamo_disabled
def norm_linear(
    x: Tensor, norm: Norm, linear: Linear, gather_fn: Gather = None, triton: bool = False
) -> Tensor:
    """``linear(norm(gather_fn(x)))``, in autocast's precision if it is on.

    Args:
        x: ``(..., C)``.
        norm: over C channels, or those that ``gather_fn`` makes.
        linear: its number of input channels is the norm's.
        gather_fn: moves or copies numbers without computing, as patch merging does; its result is
            not kept. None for nothing.
        triton: use our Triton kernels where they can run, otherwise PyTorch's operators.

    Returns:
        ``(..., out)``.
    """
    dtype = _product_dtype(linear.weight)
    if torch.is_grad_enabled():
        settings = (gather_fn, triton, dtype, norm.eps)
        return _NormLinear.apply(x, *settings, *norm[:2], *linear)
    return _norm_linear(x, gather_fn, norm, _cast(*linear, dtype), triton)


@dynamo_disabled
def proj_mlp(
    x: Tensor,
    attended: Tensor,
    proj: Linear,
    norm: Norm,
    fc1: Linear,
    fc2: Linear,
    scales: Scales = (None, None),
    triton: bool = False,
) -> Tensor:
    """What a block computes after its attention (the second half of equation 3).

    ``middle = x + proj(attended)``, ``out = middle + fc2(GELU(fc1(LayerNorm(middle))))``.

    Args:
        x: ``(B, H, W, C)``, the block's input.
        attended: ``(B, H, W, C)``, heads side by side, not projected yet.
        proj, norm, fc1, fc2: layers, of C, C, hidden and C channels.
        scales: ``(B,)`` each, factors of the projection and of the MLP for every image: 0 or
            1 / keep in stochastic depth; None for 1.
        triton: use our Triton kernels where they can run, otherwise PyTorch's operators.

    Returns:
        ``(B, H, W, C)``, in the precision of ``x + proj(attended)``.
    """
    dtype = _product_dtype(proj.weight)
    rows = x.reshape(-1, x.shape[-1])
    attended = attended.reshape(rows.shape).to(dtype)
    if torch.is_grad_enabled():
        parameters = (*proj, norm.weight, norm.bias, *fc1, *fc2)
        out = _ProjMlp.apply(rows, attended, *scales, norm.eps, dtype, triton, *parameters)
    else:
        layers = ProjMlp(_cast(*proj, dtype), norm, _cast(*fc1, dtype), _cast(*fc2, dtype))
        out = _backend(rows, dtype, triton).proj_mlp(rows, attended, scales, layers, False)[0]
    return out.view(x.shape)


def _product_dtype(weight: Tensor) -> torch.dtype:
    """Precision of matrix products with ``weight``: autocast's, or the weight's own."""
    device = weight.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype


def _cast(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    return Linear(weight.to(dtype), None if bias is None else bias.to(dtype))


def _backend(rows: Tensor, dtype: torch.dtype, triton: bool) -> ModuleType:
    """The module that computes on rows ``(T, C)``, with products in ``dtype``."""
    if triton and unsupported_reason(rows, dtype) is None:
        from swin_dense.ops.block.triton import backend

        return backend
    return pytorch


def _norm_linear(x: Tensor, gather_fn: Gather, norm: Norm, linear: Linear, triton: bool) -> Tensor:
    """``(..., C)`` to ``(..., out)``, in the precision of ``linear``."""
    x = x if gather_fn is None else gather_fn(x)
    rows, weight = x.reshape(-1, x.shape[-1]), linear.weight
    out = _backend(rows, weight.dtype, triton).norm_linear(rows, norm, linear)
    return out.view(*x.shape[:-1], weight.shape[0])


class _NormLinear(torch.autograd.Function):
    """Keeps x."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, gather_fn: Gather, triton: bool, dtype: torch.dtype, eps: float,
        norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, bias)
        ctx.settings = gather_fn, triton, dtype, eps
        norm, linear = Norm(norm_weight, norm_bias, eps), _cast(weight, bias, dtype)
        return _norm_linear(x, gather_fn, norm, linear, triton)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *parameters = ctx.saved_tensors
        gather_fn, triton, dtype, eps = ctx.settings
        if torch.is_grad_enabled():  # the gradients will be differentiated
            arguments = (x, *ctx.settings, *parameters)
            return tuple(differentiable_gradients(_plain_norm_linear, arguments, grad))
        grads = ParamGrads(("norm", "linear"), ctx.needs_input_grad[5:])
        norm, weight = Norm(parameters[0], parameters[1], eps), parameters[2].to(dtype)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(gather_fn is not None)
            gathered = leaf if gather_fn is None else gather_fn(leaf)
        rows = gathered.detach().reshape(-1, gathered.shape[-1])
        d_rows = _backend(rows, dtype, triton).norm_linear_backward(
            rows, grad.reshape(-1, grad.shape[-1]), norm, weight, grads
        )
        dx = d_rows.view(gathered.shape)
        if gather_fn is not None:
            (dx,) = torch.autograd.grad(gathered, leaf, dx)
        return dx, *[None] * 4, *grads.like(parameters)


def _plain_norm_linear(
    x: Tensor, gather_fn: Gather, _triton: bool, dtype: torch.dtype, eps: float,
    norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    x = (x if gather_fn is None else gather_fn(x)).to(norm_weight.dtype)
    normed = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps)
    return F.linear(normed.to(dtype), *_cast(weight, bias, dtype))


class _ProjMlp(torch.autograd.Function):
    """Keeps x and the attention's result, and of wide layers fc1's result."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
        eps: float, dtype: torch.dtype, triton: bool, *parameters: Tensor | None,
    ) -> Tensor:  # fmt: skip
        keep = any(ctx.needs_input_grad) and x.shape[1] > RECOMPUTED_CHANNELS
        scales, layers = (scale_1, scale_2), _proj_mlp_layers(parameters, eps, dtype)
        out, *hidden = _backend(x, dtype, triton).proj_mlp(x, attended, scales, layers, keep)
        ctx.save_for_backward(x, attended, *scales, hidden[0] if keep else None, *parameters)
        ctx.settings = eps, dtype, triton
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, attended, scale_1, scale_2, hidden, *parameters = ctx.saved_tensors
        scales, (eps, dtype, triton) = (scale_1, scale_2), ctx.settings
        if torch.is_grad_enabled():  # the gradients will be differentiated
            arguments = (x, attended, *scales, *ctx.settings, *parameters)
            return tuple(differentiable_gradients(_plain_proj_mlp, arguments, grad))
        grads = ParamGrads(("proj", "norm", "fc1", "fc2"), ctx.needs_input_grad[7:])
        backend, layers = _backend(x, dtype, triton), _proj_mlp_layers(parameters, eps, dtype)
        dx, d_attended = backend.proj_mlp_backward(
            x, attended, scales, hidden, layers, grad.contiguous(), grads
        )
        return dx, d_attended, *[None] * 5, *grads.like(parameters)


def _proj_mlp_layers(parameters: Any, eps: float, dtype: torch.dtype) -> ProjMlp:
    wp, bp, wn, bn, w1, b1, w2, b2 = parameters
    norm = Norm(wn, bn, eps)
    return ProjMlp(_cast(wp, bp, dtype), norm, _cast(w1, b1, dtype), _cast(w2, b2, dtype))


def _plain_proj_mlp(
    x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
    eps: float, dtype: torch.dtype, _triton: bool, *parameters: Tensor | None,
) -> Tensor:  # fmt: skip
    proj, norm, fc1, fc2 = _proj_mlp_layers(parameters, eps, dtype)

    def scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
        if scale is None:
            return branch
        return (branch.view(len(scale), -1, branch.shape[1]) * scale[:, None, None]).flatten(0, 1)

    x = x + scaled(F.linear(attended, *proj), scale_1)
    normed = F.layer_norm(x.to(norm.weight.dtype), norm.weight.shape, *norm)
    branch = F.linear(F.gelu(F.linear(normed.to(dtype), *fc1)), *fc2)
    return x + scaled(branch, scale_2)
