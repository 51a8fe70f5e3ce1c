"""The neighbours that patch merging joins, and their gradient."""

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.torch_versions import is_compiling


def neighbours(x: Tensor, stride: int) -> Tensor:
    """The channels of 2 x 2 tokens side by side: ``(B, ceil(H / s), ceil(W / s), 4C)``, stride s.

    Tokens beyond the map ``(B, H, W, C)`` are 0.
    """
    h, w = x.shape[1:3]
    rows, columns = ((size + stride - 1) // stride for size in (h, w))
    reach_h, reach_w = ((n - 1) * stride + 1 for n in (rows, columns))
    beyond = max(stride, 2) - 1  # whole steps, and a neighbour for the last token at least
    bottom, right = reach_h + beyond - h, reach_w + beyond - w
    if is_compiling() or bottom or right:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    found = [
        x[:, i : i + reach_h : stride, j : j + reach_w : stride] for i in (0, 1) for j in (0, 1)
    ]
    # OpenMMLab's channel order is nn.Unfold's: the four neighbours of a channel are adjacent.
    return torch.stack(found, dim=-1).flatten(-2)


def neighbours_backward(grad: Tensor, stride: int, total: Tensor) -> Tensor:
    """Add the gradient of :func:`neighbours` to that of its input by other paths, in place.

    Autograd's own would fill a map with zeros for each of the four neighbours, and add these maps.

    Args:
        grad: of the neighbours, ``(B, ceil(H / s), ceil(W / s), 4C)``.
        stride: s.
        total: ``(B, H, W, C)``, written to.

    Returns:
        ``total``.
    """
    parts = grad.unflatten(-1, (-1, 2, 2))
    for i in (0, 1):
        for j in (0, 1):
            tokens = total[:, i::stride, j::stride]  # with a stride of 1, one fewer than parts
            tokens += parts[:, : tokens.shape[1], : tokens.shape[2], :, i, j]
    return total
