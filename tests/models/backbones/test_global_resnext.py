"""ResNeXt with a global layer: mmdet's, and attention of the last map added to it."""

import pytest
import torch
from mmdet.models.backbones import ResNeXt

from swin_dense.models.backbones import GlobalResNeXt

SIZES = {"depth": 50, "groups": 4, "base_width": 4, "base_channels": 8}


@pytest.fixture
def pair() -> tuple[ResNeXt, GlobalResNeXt]:
    plain, ours = ResNeXt(**SIZES), GlobalResNeXt(**SIZES)
    for model in (plain, ours):
        model.eval()  # mmdet's returns nothing
    found = ours.load_state_dict(plain.state_dict(), strict=False)
    assert found.unexpected_keys == []
    assert found.missing_keys == ["global_layer.qkv.weight", "global_layer.qkv.bias"]
    return plain, ours


def test_last_map_is_that_of_mmdet_plus_attention(pair):
    plain, ours = pair
    image = torch.randn(2, 3, 96, 128)
    expected, maps = plain(image), ours(image)
    assert all(torch.equal(a, b) for a, b in zip(expected[:-1], maps[:-1], strict=True))
    last = expected[-1]
    batch, channels, height, width = last.shape
    tokens = last.flatten(2).transpose(1, 2).double()
    layer = ours.global_layer.qkv.double()
    q, k, v = layer(tokens).chunk(3, dim=-1)
    heads = [x.unflatten(-1, (channels // 32, 32)).transpose(1, 2) for x in (q, k, v)]
    scores = (heads[0] @ heads[1].transpose(2, 3) / 32**0.5).softmax(-1)
    added = (scores @ heads[2]).transpose(1, 2).flatten(2)
    shape = batch, channels, height, width
    torch.testing.assert_close(
        maps[-1].double(),
        last.double() + added.transpose(1, 2).reshape(shape),
        rtol=1e-5,
        atol=1e-5,
    )


def test_every_parameter_of_the_layer_gets_a_gradient(pair):
    ours = pair[1]
    ours(torch.randn(2, 3, 64, 64))[-1].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in ours.global_layer.parameters())
