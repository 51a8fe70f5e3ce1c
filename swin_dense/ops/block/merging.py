"""The neighbours that patch merging joins."""

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.torch_versions import is_compiling


def neighbours(x: Tensor, stride: int) -> Tensor:
    """The channels of 2 x 2 tokens side by side: ``(B, ceil(H / s), ceil(W / s), 4C)``, stride s.

    Tokens beyond the map ``(B, H, W, C)`` are 0.
    """
    h, w = x.shape[1:3]
    rows, columns = (-(-size // stride) for size in (h, w))
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
