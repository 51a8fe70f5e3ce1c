"""Triton's kernels as candidates, in Triton's interpreter on the CPU.

Run by ``test_tuning.py`` in a separate process. Matrix products of bf16 are wrong in the
interpreter: a candidate that lies, and is found out.
"""

import dataclasses
import logging

import pytest
import torch
from small_swin import small_model
from test_tuning import _measured_on_the_cpu, settings, winner  # noqa: F401

from swin_dense.backbones import layers
from swin_dense.backbones.layers import MapNorm
from swin_dense.backbones.tuning import make_race
from swin_dense.ops import autotune
from swin_dense.ops.block.triton import maps


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


def spoil(monkeypatch, name, change):
    inner = getattr(maps, name)
    monkeypatch.setattr(maps, name, lambda *args: change(inner(*args)))


def norm_race(model, training=True, channels_first=True):
    """Of a norm whose input is in the other order than its output."""
    norm = MapNorm(model.norm0, model.attn_impl, channels_first)
    conditions = settings(training)._replace(channels_first=not channels_first)
    race, impls = make_race(norm, (1, 5, 5, 32), conditions)
    assert impls.keys() == {"modules", "triton"}
    return race


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_norms_of_maps_agree(model, training, channels_first):
    result = autotune.measure(norm_race(model, training, channels_first))
    assert result.ms.keys() == {"modules", "triton"}
    assert not result.left_out


def swapped(out):
    return out.transpose(2, 3).contiguous().view(out.shape)


def crash(_):
    raise RuntimeError("illegal memory access")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("layer_norm_map", lambda out: out * 1.01, "wrong by"),
        ("layer_norm_map", swapped, "wrong by"),
        ("layer_norm_map_backward", lambda grads: (grads[0] * 1.01, *grads[1:]), "wrong by"),
        ("layer_norm_map", crash, "RuntimeError: illegal memory access"),
    ],
    ids=["values", "order", "gradients", "crash"],
)
def test_wrong_norms_are_left_out(model, name, change, reason, monkeypatch, caplog):
    spoil(monkeypatch, name, change)
    assert autotune.measure(norm_race(model)).left_out.keys() == {"triton"}
    (line,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert line.startswith("MapNorm to NCHW of 32 channels, float32, training: triton is left out")
    assert reason in line


def test_slow_norm_is_not_chosen(model, monkeypatch):
    """Interpreted, Triton is slower by far."""
    assert autotune.choose(norm_race(model, training=False)) == "modules"


@pytest.mark.parametrize("name", ["triton", "modules"])
def test_winner_computes_norms(name, winner, monkeypatch):  # noqa: F811
    """One race for each norm; with the same results as the module's."""
    races = winner(name)
    calls = []
    inner = layers.norm_map
    monkeypatch.setattr(layers, "norm_map", lambda *args: calls.append(args[2]) or inner(*args))
    options = {"depths": (0, 0), "global_attention": False, "embed_dims": 32, "patch_norm": True}
    model, plain = small_model(**options), small_model(**options, attn_impl="reference")
    x = torch.randn(2, 3, 21, 26)
    for one, two in zip(model(x), plain(x), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
        assert one.is_contiguous()
    assert calls == ([False, True, True] if name == "triton" else [])
    model(x)
    assert [race.what for race in races if "MapNorm" in race.what] == [
        "MapNorm of 32 channels, float32, training",
        "MapNorm to NCHW of 32 channels, float32, training",
        "MapNorm to NCHW of 64 channels, float32, training",
    ]
    embed, channels_first = model.patch_embed, torch.randn(2, 32, 3, 4).permute(0, 2, 3, 1)
    for tokens in (channels_first, channels_first.contiguous()):  # a race for each order
        embed.norm_of_map(embed.norm, tokens)
    orders = [race.key["channels_first"] for race in races if "MapNorm of" in race.what]
    assert set(orders) == {True, False}


def test_norm_that_is_not_the_one_that_was_measured(winner):  # noqa: F811
    """Replaced, or with a hook: the module computes."""
    winner("triton")
    options = {"depths": (0,), "num_heads": (1,), "strides": (4,), "out_indices": (0,)}
    model = small_model(embed_dims=32, global_attention=False, **options)
    x, seen = torch.randn(1, 3, 16, 16), []
    model(x)
    handle = model.norm0.register_forward_hook(lambda *_: seen.append(1))
    model(x)
    handle.remove()
    assert seen == [1]
    model.norm0 = torch.nn.LayerNorm(32, elementwise_affine=False)
    (out,) = model(x)
    torch.testing.assert_close(out.mean(1), torch.zeros(1, 4, 4), atol=1e-5, rtol=0)
