"""Shifted-window attention in plain PyTorch: the definition of correct.

Every other backend is tested against this one, in forward and in every gradient.
"""

from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.window_attention import windows
from swin_dense.ops.window_attention.windows import WindowSpec


def shifted_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    spec: WindowSpec,
    dropout_p: float = 0.0,
) -> Tensor:
    """softmax(scale * q k^T + B) v in every window (paper equation 4).

    Arguments and result are those of :func:`~.api.shifted_window_attention`.
    """
    h, w = qkv.shape[1:3]
    q, k, v = windows.to_windows(qkv, qkv_bias, spec)
    scores = (q * spec.scale) @ k.transpose(-2, -1)
    if position_bias is not None:
        scores = scores + position_bias
    if spec.shift_size:
        mask = windows.shift_mask(h, w, spec, qkv.device, qkv.dtype)
        scores = scores + mask[:, None]
    weights = F.dropout(scores.softmax(dim=-1).to(v.dtype), dropout_p)
    return windows.from_windows(weights @ v, h, w, spec)
