"""What surrounds the attention of a Swin block, with less memory traffic and less kept.

==========================  ===================================================================
:func:`norm_linear`         LayerNorm and the linear layer after it (queries, keys and values;
                            patch merging); of Swin V2 the linear layer alone
:func:`proj_mlp`            projection, residual, LayerNorm, MLP, residual (equation 3)
:func:`proj_mlp_post_norm`  the same with both norms after the layers (Swin V2); PyTorch only
:func:`norm_map`            LayerNorm that also moves channels: output maps, patch embedding;
                            Triton only
==========================  ===================================================================

A block keeps four feature maps for backward: its input, queries, keys and values, and the result
of its attention; above 256 channels also the hidden units before GELU. Norms, GELU, the projection
and narrow hidden units are recomputed. Both functions follow autocast, can be differentiated twice,
and equal the plain layers up to rounding. Nothing here depends on modules: arguments are tensors.
Weights are cast together, and kept so for backward, as autocast does.
torch.compile does not trace into them; it fuses the plain layers by itself.

Backends: :mod:`.pytorch`, in chunks of rows that stay in the cache on a CPU; and
:mod:`.triton.backend`, our kernels for MLPs of up to 256 channels and linear layers of up to 768,
with the norms, residuals and GELU around them, used with ``attn_impl='triton'`` where they can run,
and with 'auto' where they were the fastest, see :mod:`~.backbones.tuning`.
"""

from swin_dense.ops.block.api import norm_linear, norm_map, proj_mlp
from swin_dense.ops.block.layers import Linear, Norm
from swin_dense.ops.block.merging import neighbours
from swin_dense.ops.block.post_norm import Layers as PostNormLayers
from swin_dense.ops.block.post_norm import proj_mlp_post_norm

__all__ = [
    "Linear",
    "Norm",
    "PostNormLayers",
    "neighbours",
    "norm_linear",
    "norm_map",
    "proj_mlp",
    "proj_mlp_post_norm",
]
