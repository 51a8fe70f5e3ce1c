"""A Swin of two stages for tests, whose parameters all take part in the result."""

import torch
from torch import nn

from swin_dense import SwinTransformer

SMALL = {
    "embed_dims": 16,
    "depths": (2, 2),
    "num_heads": (2, 2),
    "strides": (4, 2),
    "out_indices": (0, 1),
    "window_size": 5,
    "global_attention": True,
}


def small_model(**options):
    torch.manual_seed(0)
    model = SwinTransformer(**{**SMALL, **options})
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model
