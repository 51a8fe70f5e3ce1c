"""Multi-scale deformable attention (Deformable DETR), as mmcv calls it for tensors on a GPU.

B images, Q queries, N heads of D channels, L levels of (H_l, W_l), P points. ``value`` is
(B, sum H_l W_l, N, D), ``sampling_locations`` (B, Q, N, L, P, 2) as x, y in [0, 1],
``attention_weights`` (B, Q, N, L, P). Computed by mmcv's own plain PyTorch function.
"""

import torch
from torch import Tensor

from swin_dense.compat.ops.precision import full_precision
from swin_dense.ops.dispatch import without_autocast


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """The attended values, (B, Q, N * D), in the type of ``value``."""
    tensors = full_precision(value, sampling_locations, attention_weights)
    return _attend(value_spatial_shapes, *tensors).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the three gradients, computed by autograd over a second forward pass."""
    tensors = full_precision(value, sampling_locations, attention_weights)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        output = _attend(value_spatial_shapes, *leaves)
    grads = torch.autograd.grad(output, leaves, grad_output.to(output.dtype))
    for buffer, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        buffer.copy_(grad)


# The last shapes that were read, their version and what they hold. All layers of a step pass the
# same tensor: the host waits for the device once. Kept alive, its memory holds nothing else.
_last_read: tuple[Tensor, int, list[list[int]]] | None = None


def _sizes(shapes: Tensor) -> list[list[int]]:
    """Height and width of each level, (L, 2), on the host."""
    global _last_read
    if shapes.is_inference():  # these have no version
        return shapes.tolist()
    known = _last_read
    if known is not None:
        tensor, version, sizes = known
        same = tensor.data_ptr() == shapes.data_ptr() and tensor.shape == shapes.shape
        if same and tensor.stride() == shapes.stride() and version == shapes._version:
            return sizes
    sizes = shapes.tolist()
    _last_read = (shapes, shapes._version, sizes)
    return sizes


def _attend(shapes: Tensor, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    with without_autocast(value):
        return multi_scale_deformable_attn_pytorch(value, _sizes(shapes), locations, weights)
