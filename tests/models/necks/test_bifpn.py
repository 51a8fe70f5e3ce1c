"""The bidirectional feature pyramid against a plain computation of one pass."""

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn import functional as F

from swin_dense.models.necks import BiFPN

CHANNELS = 32  # the minimum for 32 groups


def pyramid(channels=(32, 16, 8), size=(9, 14)):
    """Feature maps, each half as large as the one before, rounded up."""
    height, width = size
    maps = []
    for c in channels:
        maps.append(torch.randn(2, c, height, width))
        height, width = -(-height // 2), -(-width // 2)
    return maps


def mix(module, *feature_maps):
    """Weighted sum with normalised non-negative weights, then swish."""
    weights = module.weights.reshape(-1).clamp(min=0)
    total = sum(w * x for w, x in zip(weights, feature_maps, strict=True)) / (weights.sum() + 1e-4)
    return total * torch.sigmoid(total)


def test_one_repeat_equals_a_plain_computation():
    neck = BiFPN([16, 16], CHANNELS, num_outs=3, num_repeat=1)
    layer = neck.bi_fpn[0]
    for combine in [*layer.lateral_combine, *layer.out_combine]:
        combine.weights.data.uniform_(-0.5, 1)  # negative weights count as 0
    fine, middle = pyramid((16, 16))
    coarse = F.max_pool2d(middle, 3, 2, 1)
    f, m, c = (conv(x) for conv, x in zip(layer.lateral_convs, (fine, middle, coarse), strict=True))

    def up(x, like):
        return F.interpolate(x, like.shape[2:])

    m1 = layer.lateral_combine_conv[1](mix(layer.lateral_combine[1], m, up(c, m)))
    f1 = layer.lateral_combine_conv[0](mix(layer.lateral_combine[0], f, up(m1, f)))
    m2 = layer.out_combine_conv[0](mix(layer.out_combine[0], F.max_pool2d(f1, 3, 2, 1), m1, m))
    c2 = layer.out_combine_conv[1](mix(layer.out_combine[1], F.max_pool2d(m2, 3, 2, 1), c))

    for found, expected in zip(neck((fine, middle)), (f1, m2, c2), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [(9, 14), (16, 8), (1, 1)])
def test_levels_halve_for_any_size(size):
    maps = pyramid(size=size)
    outs = BiFPN([32, 16, 8], CHANNELS, num_outs=5, num_repeat=2)(maps)
    assert [out.shape[2:] for out in outs[:3]] == [x.shape[2:] for x in maps]
    assert all(out.shape[:2] == (2, CHANNELS) for out in outs)
    height, width = maps[2].shape[2:]
    assert outs[4].shape[2:] == (-(-height // 4), -(-width // 4))


def test_no_lateral_convolution_for_inputs_of_the_output_width():
    neck = BiFPN([CHANNELS, 16], CHANNELS, num_outs=2, num_repeat=2)
    laterals = {name.split(".conv.")[0] for name in neck.state_dict() if "lateral_convs" in name}
    assert {name.split(".bn.")[0].split(".gn.")[0] for name in laterals} == {
        "bi_fpn.0.lateral_convs.1"
    }


def test_every_parameter_gets_a_gradient():
    neck = MODELS.build(
        {"type": "swin_dense.BiFPN", "in_channels": [32, 16, 8], "out_channels": CHANNELS}
    )
    neck.init_weights()
    sum(out.square().sum() for out in neck(pyramid())).backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None] == []


def test_fewer_outputs_than_inputs_raise():
    with pytest.raises(ValueError, match="3 inputs and num_outs=2"):
        BiFPN([32, 16, 8], CHANNELS, num_outs=2)
