"""What surrounds the attention of a Swin block, in fewer passes over memory, keeping less.

================================  ===========================================================
:func:`norm_linear`               LayerNorm and the linear layer behind it; keeps its input
:func:`after_attention`           projection, residual, LayerNorm, perceptron, residual; keeps
                                  both inputs, and of wide layers the hidden units before GELU
================================  ===========================================================

Backward computes anew what was not kept. Nothing here knows of modules: arguments are tensors.
Both follow autocast, and give what the plain layers would, up to rounding.
"""

from swin_dense.fused.block_end import after_attention
from swin_dense.fused.layers import Linear, Norm
from swin_dense.fused.normed_linear import norm_linear

__all__ = ["Linear", "Norm", "after_attention", "norm_linear"]
