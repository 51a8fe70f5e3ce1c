"""Triton's kernels as candidates, in Triton's interpreter on the CPU.

Run by ``test_tuning.py`` in a separate process. Matrix products of bf16 are wrong in the
interpreter: a candidate that lies, and is found out.
"""

import dataclasses

import pytest
import torch
from test_tuning import settings, small_model

from swin_dense.backbones.tuning import make_race
from swin_dense.ops import autotune


@pytest.fixture(scope="module")
def model():
    return small_model(embed_dims=32, num_heads=(2, 2), drop_path_rate=0.3).train()


@pytest.mark.parametrize(
    ("layer", "training", "autocast", "right"),
    [
        ("block", True, torch.float16, True),
        ("block", False, torch.bfloat16, False),
        ("merging", True, torch.float16, True),
    ],
)
def test_check_of_triton(model, layer, training, autocast, right):
    stage = model.stages[0]
    part = {"block": stage.blocks[1], "merging": stage.downsample}[layer]
    race, _ = make_race(part, (1, 5, 5, 32), settings(training, autocast))
    tested = {"modules+reference", "triton+triton", "modules", "triton"}
    few = [c._replace(step=lambda: None) for c in race.candidates if c.name in tested]
    assert len(few) == 2
    assert few[-1].compiles
    result = autotune.measure(dataclasses.replace(race, candidates=few))
    assert ({few[-1].name} == result.left_out.keys()) is not right
    assert len(result.left_out) == (not right)
