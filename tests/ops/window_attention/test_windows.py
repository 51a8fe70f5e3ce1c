"""Window geometry, checked token by token."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swin_dense.ops.window_attention import windows

sizes = st.integers(1, 4)
window_sizes = st.integers(1, 7)


@settings(max_examples=30, deadline=None)
@given(b=st.integers(1, 2), rows=sizes, columns=sizes, m=window_sizes)
def test_merge_undoes_partition(b, rows, columns, m):
    x = torch.arange(b * rows * columns * m * m * 3).view(b, rows * m, columns * m, 3)
    cut = windows.partition(x, m)
    assert cut.shape == (b, rows * columns, m * m, 3)
    assert torch.equal(windows.merge(cut, rows * m, columns * m), x)
    # A window is a contiguous square of the feature map.
    assert torch.equal(cut[0, -1], x[0, -m:, -m:].reshape(m * m, 3))


@settings(max_examples=30, deadline=None)
@given(h=st.integers(1, 50), w=st.integers(1, 50), m=window_sizes)
def test_padded_size_is_the_next_multiple(h, w, m):
    for size, padded in zip((h, w), windows.padded_size(h, w, m), strict=True):
        assert padded % m == 0
        assert 0 <= padded - size < m


@settings(max_examples=30, deadline=None)
@given(h=st.integers(1, 20), w=st.integers(1, 20), m=window_sizes, data=st.data())
def test_window_tokens_equal_pad_roll_and_partition(h, w, m, data):
    shift = data.draw(st.integers(0, m - 1))
    padded_h, padded_w = windows.padded_size(h, w, m)
    tokens = torch.full((padded_h, padded_w), -1)
    tokens[:h, :w] = torch.arange(h * w).view(h, w)
    rolled = tokens.roll((-shift, -shift), dims=(0, 1))[None, :, :, None]
    expected = windows.partition(rolled, m)[0, :, :, 0]
    assert torch.equal(windows.window_tokens(h, w, m, shift), expected)


@settings(max_examples=10, deadline=None)
@given(m=window_sizes)
def test_relative_position_index_follows_the_offset(m):
    index = windows.relative_position_index(m)
    for query in range(m * m):
        for key in range(m * m):
            dy, dx = query // m - key // m, query % m - key % m
            assert index[query, key] == (dy + m - 1) * (2 * m - 1) + dx + m - 1


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 3), columns=st.integers(1, 3), m=st.integers(2, 7), data=st.data())
def test_shift_regions(rows, columns, m, data):
    """Two tokens of a shifted window share a region if neither or both wrapped around."""
    shift = data.draw(st.integers(1, m - 1))
    h, w = rows * m, columns * m
    regions = windows.shift_regions(h, w, m, shift)
    rolled_y = (torch.arange(h) + shift)[:, None].expand(h, w)
    rolled_x = (torch.arange(w) + shift)[None].expand(h, w)
    wrapped = (rolled_y >= h).long() * 2 + (rolled_x >= w).long()
    cut = windows.partition(wrapped[None, :, :, None], m)[0, :, :, 0]
    together = cut[:, :, None] == cut[:, None, :]
    assert torch.equal(regions[:, :, None] == regions[:, None, :], together)


def test_mask_is_minus_100_and_valid_in_training_after_inference():
    spec = windows.WindowSpec(1, 7, 3, 1.0)
    with torch.inference_mode():
        windows._cached_mask.cache_clear()
        windows.shift_mask(14, 14, spec, torch.device("cpu"), torch.float32)
    mask = windows.shift_mask(14, 14, spec, torch.device("cpu"), torch.float32)
    assert set(mask.unique().tolist()) == {0.0, -100.0}
    assert not mask.is_inference()
