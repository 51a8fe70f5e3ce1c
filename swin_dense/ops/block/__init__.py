"""What surrounds the attention of a Swin block, with less memory traffic and less kept.

===================  ==========================================================================
:func:`norm_linear`  LayerNorm and the linear layer after it (queries, keys and values; patch
                     merging)
:func:`proj_mlp`     projection, residual, LayerNorm, MLP, residual (equation 3)
===================  ==========================================================================

A block keeps four feature maps for backward: its input, queries, keys and values, and the result
of its attention; above 256 channels also the hidden units before GELU. Norms, GELU, the projection
and narrow hidden units are recomputed. Both functions follow autocast, can be differentiated twice,
and equal the plain layers up to rounding. Nothing here depends on modules: arguments are tensors.
torch.compile does not trace into them; it fuses the plain layers by itself.

Backends: :mod:`.pytorch`, in chunks of rows that stay in the cache on a CPU; and
:mod:`.triton.backend`, our kernels for norms, residuals, GELU and MLPs of up to 256 channels, used
with ``attn_impl='triton'`` where they can run, and with 'auto' where they were the fastest, see
:mod:`~.backbones.tuning`.
"""

from swin_dense.ops.block.api import norm_linear, proj_mlp
from swin_dense.ops.block.layers import Linear, Norm

__all__ = ["Linear", "Norm", "norm_linear", "proj_mlp"]
