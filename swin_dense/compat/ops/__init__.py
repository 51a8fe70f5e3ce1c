"""The operators of ``mmcv._ext`` that torchvision or plain PyTorch provide.

Names and tensor arguments are those of mmcv 2.1's compiled extension: ``mmcv.ops`` allocates the
outputs, the operators write into them, and sizes and options are passed by keyword. All compute in
float32 (float64 for float64 input), whatever the inputs' type, on the device of the inputs.
"""

from collections.abc import Callable
from typing import Any

from swin_dense.compat.ops import attention, boxes, deform, focal, roi

OPERATORS: dict[str, Callable[..., Any]] = {
    operator.__name__: operator
    for operator in (
        attention.ms_deform_attn_backward,
        attention.ms_deform_attn_forward,
        boxes.nms,
        boxes.nms_match,
        boxes.softnms,
        deform.deform_conv_backward_input,
        deform.deform_conv_backward_parameters,
        deform.deform_conv_forward,
        deform.modulated_deform_conv_backward,
        deform.modulated_deform_conv_forward,
        focal.sigmoid_focal_loss_backward,
        focal.sigmoid_focal_loss_forward,
        focal.softmax_focal_loss_backward,
        focal.softmax_focal_loss_forward,
        roi.roi_align_backward,
        roi.roi_align_forward,
        roi.roi_pool_backward,
        roi.roi_pool_forward,
    )
}
for _name in ("get_compiler_version", "get_compiling_cuda_version"):
    OPERATORS[_name] = lambda: "none: operators of swin_dense"
