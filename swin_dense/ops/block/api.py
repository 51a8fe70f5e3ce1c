"""A block's layers around its attention, as functions of tensors with a backward of their own."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block import pytorch
from swin_dense.ops.block.layers import Linear, Norm, ParamGrads, ProjMlp, Scales
from swin_dense.ops.block.merging import neighbours, neighbours_backward
from swin_dense.ops.block.triton.support import unsupported_reason
from swin_dense.ops.dispatch import cast_together, differentiable_gradients, dynamo_disabled
from swin_dense.ops.torch_versions import get_autocast_dtype, is_autocast_enabled

# Up to so many channels, fc1 is cheaper to recompute than its result is to keep.
RECOMPUTED_CHANNELS = 256


@dynamo_disabled
def norm_linear(
    x: Tensor,
    norm: Norm | None,
    linear: Linear,
    merge_stride: int | None = None,
    triton: bool = False,
) -> tuple[Tensor, Tensor]:
    """``linear(norm(x))``, or of 2 x 2 neighbours in x, in autocast's precision if it is on.

    Args:
        x: ``(..., C)``; ``(B, H, W, C)`` where neighbours are joined.
        norm: over C channels, or 4C of neighbours; None for ``linear(x)``.
        linear: its number of input channels is the norm's.
        merge_stride: distance of the tokens whose :func:`~.merging.neighbours` are joined; None to
            join none.
        triton: use our Triton kernels where they can run, otherwise PyTorch's operators.

    Returns:
        ``(..., out)``, and ``x`` for the caller's other uses of it: the gradient of those is added
        where that of the norm is computed, which saves a pass.
    """
    dtype = product_dtype(linear.weight)
    if torch.is_grad_enabled():
        weight, bias, eps = norm or (None, None, 0.0)
        return _NormLinear.apply(x, merge_stride, triton, dtype, eps, weight, bias, *linear)
    return _norm_linear(x, merge_stride, norm, Linear(*cast_together(linear, dtype)), triton), x


@dynamo_disabled
def norm_map(x: Tensor, norm: Norm, channels_first: bool) -> Tensor:
    """LayerNorm of a feature map by Triton, in the precision that PyTorch's would have.

    Args:
        x: ``(B, H, W, C)`` with any strides.
        norm: over C channels.
        channels_first: whether the result is ``(B, C, H, W)``, contiguous; otherwise it is
            ``(B, H, W, C)``.
    """
    # Autocast computes norms in fp32 on a GPU; on a CPU, which interprets kernels, it does not.
    dtype = torch.float32 if x.is_cuda and is_autocast_enabled("cuda") else x.dtype
    rows = x.new_empty(0, x.shape[-1])
    if unsupported_reason(rows, dtype) is not None:
        return _plain_norm_map(x, channels_first, dtype, norm.eps, *norm[:2])
    if torch.is_grad_enabled():
        return _NormMap.apply(x, channels_first, dtype, norm.eps, *norm[:2])
    return _norm_map(x, channels_first, dtype, norm)


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
    dtype = product_dtype(proj.weight)
    rows = x.reshape(-1, x.shape[-1])
    attended = attended.reshape(rows.shape).to(dtype)
    if torch.is_grad_enabled():
        parameters = (*proj, norm.weight, norm.bias, *fc1, *fc2)
        out = _ProjMlp.apply(rows, attended, *scales, norm.eps, dtype, triton, *parameters)
    else:
        layers = _layers(cast_together((*proj, *fc1, *fc2), dtype), norm)
        out = _backend(rows, dtype, triton).proj_mlp(rows, attended, scales, layers, False)[0]
    return out.view(x.shape)


def product_dtype(weight: Tensor) -> torch.dtype:
    """Precision of matrix products with ``weight``: autocast's, or the weight's own."""
    if weight.dtype == torch.float64:
        return weight.dtype
    kind = weight.device.type
    return get_autocast_dtype(kind) if is_autocast_enabled(kind) else weight.dtype


def _backend(rows: Tensor, dtype: torch.dtype, triton: bool) -> ModuleType:
    """The module that computes on rows ``(T, C)``, with products in ``dtype``."""
    if triton and unsupported_reason(rows, dtype) is None:
        from swin_dense.ops.block.triton import backend

        return backend
    return pytorch


def _merging(x: Tensor, merge_stride: int | None, dtype: torch.dtype, triton: bool) -> Any:
    """The module that joins neighbours of ``(B, H, W, C)`` as it computes; None if none does."""
    if triton and merge_stride == 2:
        merged = x.new_empty(0, 4 * x.shape[-1])
        if unsupported_reason(merged, dtype) is None:
            from swin_dense.ops.block.triton import merging

            return merging
    return None


def _norm_linear(
    x: Tensor, merge_stride: int | None, norm: Norm | None, linear: Linear, triton: bool
) -> Tensor:
    """``(..., C)`` to ``(..., out)``, in the precision of ``linear``."""
    weight = linear.weight
    triton = triton and norm is not None
    merging = _merging(x, merge_stride, weight.dtype, triton)
    if merging is not None:
        return merging.norm_linear(x, norm, linear)
    x = x if merge_stride is None else neighbours(x, merge_stride)
    rows = x.reshape(-1, x.shape[-1])
    out = _backend(rows, weight.dtype, triton).norm_linear(rows, norm, linear)
    return out.view(*x.shape[:-1], weight.shape[0])


class _NormLinear(torch.autograd.Function):
    """Keeps x; also returns it, so that its gradient by other paths comes here."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, merge_stride: int | None, triton: bool, dtype: torch.dtype, eps: float,
        norm_weight: Any, norm_bias: Any, weight: Tensor, bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        linear = Linear(*cast_together((weight, bias), dtype))
        ctx.save_for_backward(x, linear.weight, norm_weight, norm_bias, weight, bias)
        ctx.settings = merge_stride, triton, dtype, eps
        ctx.set_materialize_grads(False)
        if not ctx.needs_input_grad[0]:
            ctx.mark_non_differentiable(x)
        norm = None if norm_weight is None else Norm(norm_weight, norm_bias, eps)
        return _norm_linear(x, merge_stride, norm, linear, triton), x

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor | None, d_x: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad is None:
            return d_x, *[None] * 8
        x, weight, *parameters = ctx.saved_tensors
        merge_stride, triton, _, eps = ctx.settings
        if torch.is_grad_enabled():  # the gradients will be differentiated
            arguments = (x, *ctx.settings, *parameters)
            dx, *others = differentiable_gradients(_plain_norm_linear, arguments, grad)
            return dx if dx is None or d_x is None else dx + d_x, *others
        grads = ParamGrads(("norm", "linear"), ctx.needs_input_grad[5:])
        norm = None if parameters[0] is None else Norm(parameters[0], parameters[1], eps)
        settings = merge_stride, triton and norm is not None
        dx = _norm_linear_backward(x, grad, d_x, norm, weight, grads, *settings)
        return dx, *[None] * 4, *grads.like(parameters)


def _norm_linear_backward(
    x: Tensor, grad: Tensor, d_x: Tensor | None, norm: Norm | None, weight: Tensor,
    grads: ParamGrads, merge_stride: int | None, triton: bool,
) -> Tensor:  # fmt: skip
    """Gradient of x, of which ``d_x`` is what comes by other paths."""
    merging = _merging(x, merge_stride, weight.dtype, triton)
    if merging is not None:
        return merging.norm_linear_backward(x, grad, norm, weight, grads, d_x)
    joined = x if merge_stride is None else neighbours(x, merge_stride)
    rows = joined.reshape(-1, joined.shape[-1])
    arguments = rows, grad.reshape(-1, grad.shape[-1]), norm, weight, grads
    backend = _backend(rows, weight.dtype, triton)
    if backend is pytorch:
        dx = pytorch.norm_linear_backward(*arguments)
    else:
        residual = None if d_x is None or merge_stride is not None else d_x.reshape(rows.shape)
        dx = backend.norm_linear_backward(*arguments, residual)
        d_x = d_x if residual is None else None
    dx = dx.view(joined.shape)
    if merge_stride is not None:
        total = torch.zeros_like(x) if d_x is None else d_x.clone()
        return neighbours_backward(dx, merge_stride, total)
    return dx if d_x is None else dx.add_(d_x)


def _plain_norm_linear(
    x: Tensor, merge_stride: int | None, _triton: bool, dtype: torch.dtype, eps: float,
    norm_weight: Tensor | None, norm_bias: Tensor | None, weight: Tensor, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    x = x if merge_stride is None else neighbours(x, merge_stride)
    if norm_weight is not None:
        x = x.to(norm_weight.dtype)
        x = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps)
    return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


class _NormMap(torch.autograd.Function):
    """Keeps x."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, channels_first: bool, dtype: torch.dtype, eps: float,
        weight: Tensor, bias: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, bias)
        ctx.settings = channels_first, dtype, eps
        return _norm_map(x, channels_first, dtype, Norm(weight, bias, eps))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradients will be differentiated
            arguments = (x, *ctx.settings, *parameters)
            return tuple(differentiable_gradients(_plain_norm_map, arguments, grad))
        from swin_dense.ops.block.triton import maps

        channels_first, _, eps = ctx.settings
        norm = Norm(parameters[0], parameters[1], eps)
        dx, *found = maps.layer_norm_map_backward(grad, x, norm, channels_first)
        grads = ParamGrads(("norm",), ctx.needs_input_grad[4:])
        grads.add_norm(*found)
        return dx, *[None] * 3, *grads.like(parameters)


def _norm_map(x: Tensor, channels_first: bool, dtype: torch.dtype, norm: Norm) -> Tensor:
    from swin_dense.ops.block.triton import maps

    return maps.layer_norm_map(x, norm, dtype, channels_first)


def _plain_norm_map(
    x: Tensor, channels_first: bool, dtype: torch.dtype, eps: float, weight: Tensor, bias: Tensor
) -> Tensor:
    wide = torch.promote_types(x.dtype, weight.dtype)
    x = F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps).to(dtype)
    return x.permute(0, 3, 1, 2).contiguous() if channels_first else x


class _ProjMlp(torch.autograd.Function):
    """Keeps x and the attention's result, and of wide layers fc1's result."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
        eps: float, dtype: torch.dtype, triton: bool, *parameters: Tensor | None,
    ) -> Tensor:  # fmt: skip
        keep = any(ctx.needs_input_grad) and x.shape[1] > RECOMPUTED_CHANNELS
        norm, products = _split(parameters, eps)
        products, scales = cast_together(products, dtype), (scale_1, scale_2)
        layers = _layers(products, norm)
        out, *hidden = _backend(x, dtype, triton).proj_mlp(x, attended, scales, layers, keep)
        hidden = hidden if keep else [None]
        ctx.save_for_backward(x, attended, *scales, *hidden, *products, *parameters)
        ctx.settings = eps, dtype, triton
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, attended, scale_1, scale_2, hidden, *others = ctx.saved_tensors
        products, parameters = others[:6], others[6:]
        scales, (eps, dtype, triton) = (scale_1, scale_2), ctx.settings
        if torch.is_grad_enabled():  # the gradients will be differentiated
            arguments = (x, attended, *scales, *ctx.settings, *parameters)
            return tuple(differentiable_gradients(_plain_proj_mlp, arguments, grad))
        grads = ParamGrads(("proj", "norm", "fc1", "fc2"), ctx.needs_input_grad[7:])
        layers = _layers(products, _split(parameters, eps)[0])
        dx, d_attended = _backend(x, dtype, triton).proj_mlp_backward(
            x, attended, scales, hidden, layers, grad.contiguous(), grads
        )
        return dx, d_attended, *[None] * 5, *grads.like(parameters)


def _split(parameters: Any, eps: float) -> tuple[Norm, list[Tensor | None]]:
    """The norm of a block's second half, and weights and biases of proj, fc1 and fc2."""
    wp, bp, wn, bn, *mlp = parameters
    return Norm(wn, bn, eps), [wp, bp, *mlp]


def _layers(products: Any, norm: Norm) -> ProjMlp:
    wp, bp, w1, b1, w2, b2 = products
    return ProjMlp(Linear(wp, bp), norm, Linear(w1, b1), Linear(w2, b2))


def _plain_proj_mlp(
    x: Tensor, attended: Tensor, scale_1: Tensor | None, scale_2: Tensor | None,
    eps: float, dtype: torch.dtype, _triton: bool, *parameters: Tensor | None,
) -> Tensor:  # fmt: skip
    norm, products = _split(parameters, eps)
    products = [None if p is None else p.to(dtype) for p in products]
    proj, _, fc1, fc2 = _layers(products, norm)

    def scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
        if scale is None:
            return branch
        return (branch.view(len(scale), -1, branch.shape[1]) * scale[:, None, None]).flatten(0, 1)

    x = x + scaled(F.linear(attended, *proj), scale_1)
    normed = F.layer_norm(x.to(norm.weight.dtype), norm.weight.shape, *norm)
    branch = F.linear(F.gelu(F.linear(normed.to(dtype), *fc1)), *fc2)
    return x + scaled(branch, scale_2)
