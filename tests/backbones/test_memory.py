"""Memory that the backbone keeps for the backward pass."""

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer as MMDetSwin
from torch import Tensor

from swin_dense.backbones.swin import SwinTransformer
from swin_dense.backbones.swin_v2 import SwinTransformerV2
from swin_dense.benchmarks.measurement import kept_for_backward

SIZE = (224, 224)
# MB for an image of 800 x 1344 in bf16: input, q, k, v and output of every attention, and the
# hidden features of MLPs of more than 256 channels.
BUDGET = {"tiny": 481, "small": 871, "base": 1159}


def kept(model, dtype=torch.bfloat16):
    """Megabytes that a training step keeps for each image, scaled to 800 x 1344 pixels.

    What it keeps once for all of them, weights in lower precision, does not count.
    """
    model.train()

    def forward(batch: int) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return model(torch.ones(batch, 3, *SIZE))

    one, two = (kept_for_backward(model, lambda n=n: forward(n)) for n in (1, 2))
    return (two - one) * (800 * 1344) / (SIZE[0] * SIZE[1]) / 1e6


@pytest.mark.parametrize("arch", BUDGET)
def test_memory_budget(arch):
    assert kept(SwinTransformer(arch=arch)) <= BUDGET[arch]


@pytest.mark.parametrize(("dtype", "part"), [(torch.bfloat16, 0.5), (torch.float32, 0.6)])
def test_keeps_about_half_the_memory_of_mmdet(dtype, part):
    assert kept(SwinTransformer(arch="tiny"), dtype) <= part * kept(MMDetSwin(), dtype)


def test_swin_v2_keeps_hardly_more_than_the_first_version():
    """Of wide layers, the MLP's result for its norm."""
    maps = {"window_size": 8, "out_indices": (0, 1, 2, 3)}
    assert kept(SwinTransformerV2("tiny", **maps)) <= 1.1 * kept(SwinTransformer(arch="tiny"))


def test_checkpointing_keeps_block_inputs_only():
    """One feature map per block, besides those of the patch embedding and the output norms."""
    tokens_by_channels = [200 * 336 * 96 / 2**i for i in range(4)]
    inputs = sum(n * t for n, t in zip((2, 2, 6, 2), tokens_by_channels, strict=True))
    image, embedded, outputs = 800 * 1344 * 3, tokens_by_channels[0], sum(tokens_by_channels)
    budget = 2 * (inputs + image + embedded + outputs) / 1e6
    assert kept(SwinTransformer(arch="tiny", with_cp=True)) <= 1.02 * budget


def test_frozen_stages_keep_nothing():
    model = SwinTransformer(arch="tiny", frozen_stages=4)
    for p in (*model.norm2.parameters(), *model.norm3.parameters()):
        p.requires_grad_(False)
    assert kept(model) == 0
