"""Table 5: the two ways of shifting give the same result, and both are timed."""

from __future__ import annotations

import json

import pytest
import torch

from swin_dense.analysis import stage_times
from swin_dense.ops.window_attention import shifted_window_attention


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (7, 9), (3, 2)])
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_padded_shift_equals_cyclic_shift(size, shift):
    window, heads, channels = 4, 2, 6
    qkv = torch.randn(2, *size, 3 * channels, dtype=torch.float64)
    qkv_bias = torch.randn(3 * channels, dtype=torch.float64)
    bias = torch.randn(heads, window**2, window**2, dtype=torch.float64)
    cyclic = shifted_window_attention(
        qkv,
        qkv_bias,
        bias,
        num_heads=heads,
        window_size=window,
        shift_size=shift,
        scale=0.5,
        impl="reference",
    )
    padded = stage_times.padded_window_attention(qkv, qkv_bias, bias, heads, window, shift, 0.5)
    # Both mask with -100: what leaks through is of the order exp(-100), far below rounding.
    torch.testing.assert_close(padded, cyclic, rtol=1e-12, atol=1e-12)


def test_every_kind_and_stage_is_timed(monkeypatch):
    monkeypatch.setattr(stage_times, "STAGES", ((7, 6, 1), (9, 12, 2)))
    times = stage_times.measure_stages(torch.device("cpu"), 1, seconds=0.001, rounds=2)
    assert [t.kind for t in times] == list(stage_times.PAPER)
    assert all(len(t.milliseconds) == 2 and min(t.milliseconds) > 0 for t in times)


def test_published_times_are_the_tables(shared):
    tables = json.loads((shared / "paper" / "tables.json").read_text(encoding="utf-8"))
    for kind, milliseconds in stage_times.PAPER.items():
        assert tables[stage_times.TABLE][kind][:4] == list(milliseconds)
