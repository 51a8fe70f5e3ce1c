"""Deformable convolutions (DCN v1 and v2), as mmcv calls them, computed by torchvision.

mmcv and torchvision lay out offsets alike: (B, deform_groups * kernel_h * kernel_w * 2, out_h,
out_w), y before x at every kernel point; the mask has no factor 2. mmcv passes buffers for unfolded
columns, which torchvision manages itself, and the sizes as keyword arguments.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
import torchvision  # noqa: F401  (registers the operators below)
from torch import Tensor

from swin_dense.compat.ops.precision import full_precision
from swin_dense.ops.dispatch import without_autocast

# mmcv's keywords of both versions, in the order of torchvision's arguments.
_geometry_v1 = itemgetter(
    *("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
)
_geometry_v2 = itemgetter(
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
    *("group", "deformable_group"),
)

_convolve = torch.ops.torchvision.deform_conv2d
# Returns the gradients of input, weight, offset, mask and bias.
_gradients = torch.ops.torchvision._deform_conv2d_backward


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **sizes: int,
) -> None:
    """DCN v1: write the convolution of ``input`` (B, C, H, W) to ``output``."""
    output.copy_(_run(_convolve, (input, weight, offset), None, None, _geometry_v1(sizes)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **sizes: int,
) -> None:
    """DCN v1: write the gradients of input and offset.

    torchvision computes the weight's gradient as well: it is stored in ``columns``, which mmcv
    passes to :func:`deform_conv_backward_parameters` next.
    """
    tensors = (gradOutput, input, weight, offset)
    grads = _run(_gradients, tensors, None, None, _geometry_v1(sizes))
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])
    columns.resize_(weight.shape).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **sizes: int,
) -> None:
    """DCN v1: add ``scale`` times the gradient of the weight to ``gradWeight``."""
    if columns.shape == gradWeight.shape:
        grad = columns.clone()
        columns.resize_(0)
    else:  # input and offset needed no gradient
        # The weight's gradient does not depend on the weight.
        tensors = (gradOutput, input, gradWeight, offset)
        grad = _run(_gradients, tensors, None, None, _geometry_v1(sizes))[1]
    gradWeight.add_(grad.to(gradWeight), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **sizes: int,
) -> None:
    """DCN v2: write the convolution, its samples weighted by ``mask``, to ``output``."""
    offset, mask = (_at_size(tensor, output.shape[2:]) for tensor in (offset, mask))
    tensors, used_bias = (input, weight, offset), bias if with_bias else None
    output.copy_(_run(_convolve, tensors, mask, used_bias, _geometry_v2(sizes)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **sizes: int,
) -> None:
    """DCN v2: write the gradients of input, weight, offset, mask and, if there is one, bias."""
    size = grad_output.shape[2:]
    offset, mask = (_at_size(tensor, size) for tensor in (offset, mask))
    tensors = (grad_output, input, weight, offset)
    grads = _run(_gradients, tensors, mask, None, _geometry_v2(sizes))  # bias does not matter
    buffers = [grad_input, grad_weight, _at_size(grad_offset, size), _at_size(grad_mask, size)]
    if with_bias:
        buffers.append(grad_bias)
    for buffer, grad in zip(buffers, grads, strict=False):
        buffer.copy_(grad)


def _at_size(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """An offset or a mask (B, C, H, W) as mmcv's kernels read it, at ``size``; a view.

    They read the numbers of an image one after the other, whatever its height and width. DyHead's
    weights depend on it: for the coarser of two levels it passes the offsets of the finer one.
    """
    count = tensor[0].numel() // tensor[0, 0].numel() * size[0] * size[1]
    if tensor.shape[2:] == tuple(size) or count > tensor[0].numel():
        return tensor
    return tensor.flatten(1)[:, :count].view(len(tensor), -1, *size)


def _run(
    operator: Callable[..., Any],
    tensors: Sequence[Tensor],
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Any:
    """Run torchvision's operator in full precision; ``tensors`` end with weight and offset."""
    weight, offset = tensors[-2:]
    use_mask = mask is not None
    mask = offset.new_zeros(len(offset), 1) if mask is None else mask
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    with without_autocast(offset):
        return operator(*full_precision(*tensors, mask, bias), *geometry, use_mask)
