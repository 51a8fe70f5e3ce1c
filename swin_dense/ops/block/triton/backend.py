"""A block's layers by our Triton kernels, with PyTorch's matrix products between them.

Up to 256 channels the whole MLP is one kernel; up to 768 each of its layers is one, in 16 bits and
on GPUs with the shared memory for it. Arguments and results are those of :mod:`~.block.pytorch`.
"""

from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block.layers import Linear, Norm, ParamGrads, ProjMlp, Scales
from swin_dense.ops.block.triton import launch
from swin_dense.ops.block.triton.support import (
    unsupported_linear_reason,
    unsupported_product_reason,
    unsupported_sum_reason,
)


def norm_linear(x: Tensor, norm: Norm, linear: Linear) -> Tensor:
    """``(T, C)`` to ``(T, out)``, in the precision of ``linear``."""
    weight = linear.weight
    if unsupported_linear_reason(x, weight.dtype, len(weight)) is None:
        return launch.norm_linear(x, norm, linear)
    return F.linear(launch.layer_norm(x, norm, weight.dtype), *linear)


def norm_linear_backward(
    x: Tensor, grad: Tensor, norm: Norm, weight: Tensor, grads: ParamGrads,
    d_residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """Gradient of ``x``, ``(T, C)``, with that by another path; adds the layers' to ``grads``."""
    if unsupported_sum_reason(x, weight.dtype, len(weight)) is None:
        dx, normed, d_weight, d_bias, d_linear_bias = launch.norm_linear_backward(
            grad, x, norm, weight, d_residual
        )
        grads.add_norm(d_weight, d_bias)
        grads.add_linear("linear", grad, normed, d_bias=d_linear_bias)
        return dx
    grads.add_linear("linear", grad, launch.layer_norm(x, norm, weight.dtype))
    dx, *d_norm, _, _ = launch.layer_norm_backward(grad @ weight, x, norm, d_residual)
    grads.add_norm(*d_norm)
    return dx


def proj_mlp(
    x: Tensor, attended: Tensor, scales: Scales, layers: ProjMlp, keep: bool
) -> tuple[Tensor, ...]:
    """Rows ``(T, C)`` to ``(T, C)``; with ``keep`` also fc1's result, ``(T, hidden)``."""
    (proj, norm, fc1, fc2), (scale_1, scale_2) = layers, scales
    if not keep and _is_one_kernel(layers):
        middle = launch.linear_residual(attended, proj, x, scale_1)
        return (launch.mlp(middle, scale_2, norm, fc1, fc2),)
    if _is_fused(layers):
        middle = launch.linear_residual(attended, proj, x, scale_1)
        active, *hidden = launch.norm_linear_gelu(middle, norm, fc1, keep)
        out = launch.residual_linear(active, fc2, middle, scale_2)
    else:
        branch = F.linear(attended, *proj)
        middle, normed = launch.add_layer_norm(x, branch, scale_1, norm, attended.dtype)
        hidden = [F.linear(normed, *fc1)]
        out = launch.add(middle, F.linear(launch.gelu(hidden[0]), *fc2), scale_2)
    return (out, *hidden) if keep else (out,)


def proj_mlp_backward(
    x: Tensor,
    attended: Tensor,
    scales: Scales,
    hidden: Tensor | None,
    layers: ProjMlp,
    grad: Tensor,
    grads: ParamGrads,
) -> tuple[Tensor, ...]:
    """Gradients of x and of the attention's result; adds those of the layers to ``grads``."""
    (proj, norm, fc1, fc2), (scale_1, scale_2) = layers, scales
    dtype = attended.dtype
    if hidden is None and _is_one_kernel(layers):
        middle = launch.linear_residual(attended, proj, x, scale_1)
        found = launch.mlp_backward(middle, grad, scales, norm, fc1, fc2)
        grads.add_linear("fc2", found.d2, found.g, d_bias=found.d_b2)
        grads.add_linear("fc1", found.dh, found.mn, d_bias=found.d_b1)
        d_middle, d_norm = found.dm, [found.d_norm_weight, found.d_norm_bias]
        d_branch: Tensor | None = found.d_branch
        d_bias: Tensor | None = found.d_branch_bias
    else:
        if _is_fused(layers):
            middle = launch.linear_residual(attended, proj, x, scale_1)
            normed = launch.layer_norm(middle, norm, dtype)
        else:
            branch = F.linear(attended, *proj)
            middle, normed = launch.add_layer_norm(x, branch, scale_1, norm, dtype)
        entering = F.linear(normed, *fc1) if hidden is None else hidden
        d_hidden = _hidden_backward(grad, scale_2, entering, layers, grads)
        grads.add_linear("fc1", d_hidden.dh, normed, d_bias=d_hidden.d_bh)
        d_middle, *d_norm, d_branch, d_bias = launch.layer_norm_backward(
            d_hidden.dh @ fc1.weight, middle, norm, grad, scale_1, dtype
        )
    grads.add_norm(*d_norm)
    assert d_branch is not None
    grads.add_linear("proj", d_branch, attended, d_bias=d_bias)
    return d_middle.to(x.dtype), d_branch @ proj.weight


def _hidden_backward(
    grad: Tensor, scale: Tensor | None, hidden: Tensor, layers: ProjMlp, grads: ParamGrads
) -> launch.GeluLinearGradients:
    """Gradients of what enters GELU, ``(T, hidden)``; adds those of fc2 to ``grads``."""
    weight = layers.fc2.weight
    if _is_fused(layers):
        found = launch.gelu_linear_backward(grad, scale, weight, hidden)
    else:
        d, d_b = launch.branch_gradient(grad, scale, hidden.dtype)
        dh, g, d_bh = launch.gelu_backward(d @ weight, hidden)
        found = launch.GeluLinearGradients(d, g, dh, d_b, d_bh)
    grads.add_linear("fc2", found.d, found.g, d_bias=found.d_b)
    return found


def _is_fused(layers: ProjMlp) -> bool:
    """Whether norms, residuals and GELU are part of the kernels of linear layers."""
    weight = layers.fc1.weight
    return unsupported_linear_reason(weight, weight.dtype, len(weight)) is None


def _is_one_kernel(layers: ProjMlp) -> bool:
    weight = layers.fc1.weight
    has_biases = layers.fc1.bias is not None and layers.fc2.bias is not None
    return has_biases and unsupported_product_reason(weight, weight.dtype, len(weight)) is None
