"""What passes between the host and the device, with as few waits of the one for the other."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def true_indices(masks: Sequence[Tensor]) -> list[Tensor]:
    """Where each mask is true: indices into its flattened elements, ascending.

    The host has to know how many there are: it waits for the device, once for all masks. Indexing
    with the masks themselves would wait in every call, and again in backward.
    """
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    return [
        torch.nonzero_static(mask.flatten(), size=count)[:, 0]
        for mask, count in zip(masks, counts, strict=True)
    ]


def values_like(x: Tensor, values: Any) -> Tensor:
    """Numbers of the host, in the type and on the device of ``x``; ``x.new_tensor`` would wait."""
    return torch.tensor(values, dtype=x.dtype).to(x.device, non_blocking=True)
