"""Timing, medians and exponents; costs against counts by hand."""

import time

import pytest
import torch
from torch import nn

from swin_dense.benchmarks.baselines import Spec, build_ours
from swin_dense.benchmarks.measurement import (
    Rates,
    Timing,
    Work,
    backbone_work,
    exponent,
    interleave,
    kept_for_backward,
    launches,
    training_costs,
)

CPU = torch.device("cpu")


def test_steps_are_interleaved():
    order: list[str] = []
    steps = {name: lambda name=name: order.append(name) for name in "ABC"}
    times = interleave(steps, 4, CPU, warm_up=False)
    assert order == list("ABC") * 4
    assert [len(timing.seconds) for timing in times.values()] == [4, 4, 4]


def test_short_steps_are_repeated_within_a_round():
    order: list[str] = []
    interleave({"A": lambda: order.append("A")}, 2, CPU, least_seconds=0.001)
    assert len(order) > 20


def test_what_ran_before_a_short_step_does_not_count():
    """Each is run untimed before it is timed: the step before it was another one."""
    order: list[str] = []

    def step(name: str) -> None:
        time.sleep(0.002)
        order.append(name)

    interleave({name: lambda name=name: step(name) for name in "AB"}, 2, CPU, least_seconds=0.001)
    assert "".join(order) == "AABB" * 3  # the first time to find out how long they take


def test_median_and_quartiles():
    record = Timing((5.0, 1.0, 2.0, 4.0, 3.0)).as_json()
    assert record == {"median_ms": 3000, "quartiles_ms": [2000, 4000], "rounds": 5}
    assert Timing((2.0,)).quartiles == (2.0, 2.0)


@pytest.mark.parametrize("power", [1.0, 1.05, 2.0])
def test_exponent_of_a_power_law(power):
    pixels = [side * side for side in (512, 1024, 1536, 2048)]
    assert exponent(pixels, [3e-7 * p**power for p in pixels]) == pytest.approx(power, abs=1e-9)


def test_exponent_by_least_squares():
    # By hand: logs 0, 1, 2 and 0, 2, 2 have the slope (2 - 0) / 2.
    e = torch.e
    assert exponent([1, e, e * e], [1, e * e, e * e]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two sizes"):
        exponent([7, 7], [1, 2])


def test_kept_memory_is_counted_once_and_without_weights():
    layer = nn.Linear(10, 20, bias=False)
    x = torch.randn(30, 10)

    def step():
        y = layer(x)  # keeps x and the weight
        (y * y).sum().backward()  # keeps y twice

    assert kept_for_backward(layer, step) == 4 * (30 * 10 + 30 * 20)


def test_training_costs():
    layer = nn.Linear(10, 20)
    x = torch.randn(3000, 10)

    def step():
        layer.zero_grad()
        layer(x).square().sum().backward()

    found = training_costs(layer, step, CPU)
    assert found["launches"] == launches(step, CPU)
    assert found["memory_mb"] == pytest.approx(kept_for_backward(layer, step) / 1e6, abs=0.05)


def test_views_are_no_launches():
    x = torch.randn(4, 6)
    assert launches(lambda: (x.t().reshape(-1) + 1).sum(), CPU) == 3  # copy, add, sum
    assert launches(lambda: x.view(6, 4).t(), CPU) == 0


def test_roofline_is_the_slower_of_compute_and_memory():
    rates = Rates(copy=100.0, matmul=900.0).at_best(Rates(copy=90.0, matmul=1000.0))
    assert Work(macs=500, bytes=50).least_seconds(rates) == 1.0
    assert Work(macs=500, bytes=300).least_seconds(rates) == 3.0


def test_work_of_a_backbone():
    with torch.device("meta"):
        model = build_ours(Spec(8, (1, 1, 1, 1), (1, 1, 1, 1), 7, (224, 224), 0.0, "reference"))
    work = backbone_work(model, (224, 224), batch=3, dtype=torch.bfloat16)
    elements = sum(56 * 56 // 4**i * 8 * 2**i for i in range(4))
    assert work["forward"].bytes == 2 * elements * 2 * 3
    assert work["training"].macs == 3 * work["forward"].macs
    # By hand: linear layers and attention of blocks, patch embedding, patch merging.
    tokens = [56 * 56, 28 * 28, 14 * 14, 7 * 7]
    channels = [8, 16, 32, 64]
    macs = sum(t * c * c * 12 + 2 * t * 49 * c for t, c in zip(tokens, channels, strict=True))
    macs += tokens[0] * 48 * 8
    macs += sum(tokens[i + 1] * 4 * channels[i] * 2 * channels[i] for i in range(3))
    assert work["forward"].macs == 3 * macs
