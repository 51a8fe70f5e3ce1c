"""The position bias against plain indexing."""

import pytest
import torch

from swin_dense.ops.window_attention.api import pairs_by_offset, position_bias
from swin_dense.ops.window_attention.windows import relative_position_index


@pytest.mark.parametrize("m", [1, 2, 5, 7])
def test_equals_indexing_in_value_and_gradient(m):
    g = torch.Generator().manual_seed(m)
    table = torch.randn((2 * m - 1) ** 2, 3, generator=g, dtype=torch.float64, requires_grad=True)
    index = relative_position_index(m)
    plain = table[index].permute(2, 0, 1)
    ours = position_bias(table, index)
    assert ours.is_contiguous()
    assert torch.equal(ours, plain)
    weight = torch.randn(plain.shape, generator=g, dtype=torch.float64)
    a, b = (torch.autograd.grad((x * weight).sum(), table)[0] for x in (ours, plain))
    torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
    with torch.no_grad():
        assert torch.equal(position_bias(table, index), plain)


@pytest.mark.parametrize("m", [1, 3, 7])
def test_pairs_equal_the_relative_position_index(m):
    pairs = pairs_by_offset(m * m, torch.device("cpu"))
    flat = relative_position_index(m).flatten()
    for row, places in enumerate(pairs):
        found = places[places < m**4]
        assert found.sort().values.tolist() == (flat == row).nonzero()[:, 0].tolist()


def test_second_derivatives():
    table = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    index = relative_position_index(2)
    assert torch.autograd.gradgradcheck(lambda t: position_bias(t.sin(), index), (table,))
