"""What surrounds the attention of a Swin block, in fewer passes over memory, keeping less.

=======================  ======================================================================
:func:`norm_linear`      LayerNorm and the linear layer behind it (queries, keys and values;
                         patch merging)
:func:`after_attention`  projection, residual, LayerNorm, perceptron, residual (equation 3)
=======================  ======================================================================

A block keeps four maps for backward: its input, queries, keys and values, and the result of its
attention; above 256 channels also the hidden units before GELU. Norms, GELU, the projection and
narrow hidden units are computed again. Both functions follow autocast, take gradients of
gradients, and equal the plain layers up to rounding. Nothing here knows of modules: arguments
are tensors. torch.compile does not look into them; it fuses the plain layers by itself.

Who computes:

===================  ==========================================================================
``impl='triton'``    our kernels for norms, residuals and perceptrons of up to 256 channels
                     (:mod:`~.triton.launch`), where they can run; not what
                     'auto' takes, as their speed is not measured yet
anything else, CPU   PyTorch's operators, some rows at a time so that they stay in the cache;
                     fp32 products by oneDNN where it won a race against MKL
                     (:mod:`~.matmul`; ``SWIN_DENSE_ONEDNN=0`` or ``1`` decides)
anything else, CUDA  PyTorch's operators
===================  ==========================================================================
"""

from swin_dense.ops.block.layers import Linear, Norm
from swin_dense.ops.block.norm_linear import norm_linear
from swin_dense.ops.block.proj_mlp import after_attention

__all__ = ["Linear", "Norm", "after_attention", "norm_linear"]
