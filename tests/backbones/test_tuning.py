"""Who computes a block with ``attn_impl='auto'`` where it is measured: here on CPU tensors."""

import copy
import logging
import sys
from pathlib import Path

import pytest
import small_swin_v2
import torch
from small_swin import small_model
from torch.utils.checkpoint import checkpoint

from swin_dense.backbones import tuning
from swin_dense.backbones.tuning import Settings, fixed_impl, make_race
from swin_dense.ops import autotune
from swin_dense.ops.block import pytorch
from swin_dense.ops.dispatch import AttnImpl, OperatorCounter
from swin_dense.ops.window_attention import cpu, sdpa

CPU = torch.device("cpu")
BLOCK_IMPLS = {
    f"{layers}+{attention}"
    for layers in ("modules", "pytorch")
    for attention in ("reference", "sdpa", "cpu")
}


@pytest.fixture(autouse=True)
def _measured_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "DEVICES", {"cpu"})
    monkeypatch.setenv("SWIN_DENSE_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SWIN_DENSE_AUTOTUNE", raising=False)
    # The race of products runs within the others, and is not the subject here.
    monkeypatch.setenv("SWIN_DENSE_ONEDNN", "0")
    autotune.forget()
    yield
    autotune.forget()


@pytest.fixture
def winner(monkeypatch):
    """Sets the name of the candidate that wins; returns the races that were run."""
    races = []

    def win(name):
        def measure(race, _):
            races.append(race)
            names = [c.name for c in race.candidates]
            chosen = name if name in names else name.partition("+")[0]
            return autotune.Result(chosen if chosen in names else race.fixed, {chosen: 1.0})

        monkeypatch.setattr(autotune, "measure", measure)
        return races

    return win


def settings(training=False, autocast=None, stream=torch.float32):
    return Settings(CPU, stream, torch.float32, autocast, "ieee", training, False, False)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_right_candidates_agree(training, autocast):
    """Blocks, with stochastic depth in training, global attention and patch merging."""
    model = small_model(drop_path_rate=0.3).train(training)
    layers = {
        model.stages[0].blocks[1]: BLOCK_IMPLS,
        model.stages[1].global_block: {n for n in BLOCK_IMPLS if "cpu" not in n},
        model.stages[0].downsample: {"modules", "pytorch"},
    }
    for layer, names in layers.items():
        channels = 16 if layer is not model.stages[1].global_block else 32
        race, impls = make_race(layer, (1, 10, 10, channels), settings(training, autocast))
        assert impls.keys() == names
        result = autotune.measure(race)
        assert not result.left_out
        assert result.ms.keys() == names


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_right_candidates_for_swin_v2_agree(training):
    block = small_swin_v2.small_model(drop_path_rate=0.3).train(training).stages[0].blocks[1]
    race, impls = make_race(block, (1, 10, 10, 16), settings(training))
    assert impls.keys() == BLOCK_IMPLS
    result = autotune.measure(race)
    assert not result.left_out
    assert result.ms.keys() == BLOCK_IMPLS


def test_triton_candidates(interpreted):
    interpreted(Path(__file__).with_name("tuning_interpreted.py"))


def spoil_values(monkeypatch):
    inner = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *a: inner(*a) * 1.01)


def spoil_gradients(monkeypatch):
    inner = cpu.backward

    def backward(*args):
        d_qkv, *rest = inner(*args)
        return d_qkv * 1.01, *rest

    monkeypatch.setattr(cpu, "backward", backward)


def spoil_shift(monkeypatch):
    """Masks of shifted windows forgotten."""
    inner = cpu.forward
    monkeypatch.setattr(
        cpu, "forward", lambda q, b, p, spec: inner(q, b, p, spec._replace(shift_size=0))
    )


def spoil_stochastic_depth(monkeypatch):
    inner = pytorch.proj_mlp
    monkeypatch.setattr(
        pytorch, "proj_mlp", lambda x, a, scales, *rest: inner(x, a, (scales[0],) * 2, *rest)
    )


@pytest.mark.parametrize(
    ("spoil", "left_out"),
    [
        (spoil_values, {"modules+cpu", "pytorch+cpu"}),
        (spoil_gradients, {"modules+cpu", "pytorch+cpu"}),
        (spoil_shift, {"modules+cpu", "pytorch+cpu"}),
        (spoil_stochastic_depth, {n for n in BLOCK_IMPLS if "pytorch" in n}),
    ],
)
def test_wrong_kernels_are_left_out(spoil, left_out, monkeypatch, caplog):
    spoil(monkeypatch)
    block = small_model(drop_path_rate=0.3).train().stages[1].blocks[1]
    race, _ = make_race(block, (1, 10, 10, 32), settings(training=True))
    result = autotune.measure(race)
    assert result.left_out.keys() == left_out
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == len(left_out)
    assert all("SwinBlock of 32 channels, float32, training: " in line for line in warnings)


@pytest.mark.parametrize("name", sorted(BLOCK_IMPLS))
def test_winner_computes(name, winner, monkeypatch):
    """With the same results as the reference, forward and backward."""
    winner(name)
    called = set()
    for module, function in ((cpu, "forward"), (sdpa, "shifted_window_attention")):
        inner = getattr(module, function)
        label = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(
            module, function, lambda *a, inner=inner, n=label, **k: called.add(n) or inner(*a, **k)
        )
    inner_mlp = pytorch.proj_mlp
    monkeypatch.setattr(pytorch, "proj_mlp", lambda *a: called.add("pytorch") or inner_mlp(*a))
    model = small_model(drop_path_rate=0.0).train()
    plain = small_model(drop_path_rate=0.0, attn_impl="reference").train()
    x = torch.randn(2, 3, 45, 50)
    for one, two in zip(model(x), plain(x), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    sum(out.square().mean() for out in model(x)).backward()
    sum(out.square().mean() for out in plain(x)).backward()
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4)
    assert called == set(name.split("+")) - {"modules", "reference"}


def test_one_race_for_all_blocks_of_a_stage_and_phase(winner):
    races = winner("pytorch+cpu")
    model, x = small_model(depths=(4, 2)), torch.randn(1, 3, 40, 40)
    model.train()(x)
    found = [race.what for race in races]
    assert found == [
        "SwinBlock of 16 channels, float32, training",
        "PatchMerging of 16 channels, float32, training",
        "SwinBlock of 32 channels, float32, training",
        "SwinBlock of 32 channels, float32, training",  # with global attention
    ]
    for _ in range(2):
        model(x)
        copy.deepcopy(model)(x)
    assert len(races) == 4
    with torch.no_grad():
        model(x)
        assert len(races) == 8
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
        assert len(races) == 12
        assert "bfloat16, inference" in races[-1].what
        model.half()(x.half())
        assert len(races) == 16


def test_blocks_of_which_nothing_is_trained(winner):
    """Frozen stages take what is fastest in inference."""
    races = winner("pytorch+cpu")
    model = small_model(frozen_stages=1).train()
    model(torch.randn(1, 3, 40, 40))
    assert ["inference" in race.what for race in races] == [True, True, False, False]


def test_fixed_choice(winner, monkeypatch):
    races = winner("modules+cpu")
    block, x = small_model().stages[0].blocks[1], torch.randn(1, 10, 10, 16)

    def chosen(training):
        with torch.set_grad_enabled(training):
            return block.ops.current(block, x).choice.of(x)

    with monkeypatch.context() as patch:
        patch.setattr(autotune, "is_capturing", lambda: True)
        assert chosen(False) == AttnImpl("sdpa")
        assert chosen(True) == AttnImpl("reference", fused=False)
    with OperatorCounter():
        assert chosen(False) == AttnImpl("sdpa")
    assert not races
    assert fixed_impl(small_model().stages[1].global_block.attn["w_msa"], True) == AttnImpl(
        "sdpa", fused=False
    )


def test_capture_does_not_keep_the_fixed_choice(winner, monkeypatch):
    races = winner("modules+cpu")
    block, x = small_model().stages[0].blocks[1], torch.randn(1, 10, 10, 16)
    with torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(autotune, "is_capturing", lambda: True)
            block(x)
        assert not races
        block(x)
        assert len(races) == 1


def test_deterministic_algorithms(winner):
    races = winner("modules+cpu")
    block, x = small_model().stages[0].blocks[1], torch.randn(1, 10, 10, 16)
    torch.use_deterministic_algorithms(True)
    try:
        assert block.ops.current(block, x).choice.of(x) == AttnImpl("reference", fused=False)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not races
    assert block.ops.current(block, x).choice.of(x) == AttnImpl("cpu", fused=False)


def test_other_names_and_dropped_attention_are_not_measured(winner):
    races = winner("modules+cpu")
    x = torch.randn(1, 3, 40, 40)
    for name in ("reference", "sdpa", "cpu"):
        small_model(attn_impl=name)(x)
    model = small_model(attn_drop_rate=0.1).train()
    model(x)
    assert [race.what for race in races] == ["PatchMerging of 16 channels, float32, training"]


def test_compiler_sees_no_measurement(winner):
    races = winner("modules+cpu")
    model = small_model().eval()
    with torch.no_grad():
        compiled = torch.compile(model.stages[0].blocks[1], backend="eager", fullgraph=True)
        compiled(torch.randn(1, 10, 10, 16))
    assert not races


@pytest.mark.parametrize("with_cp", [False, True])
def test_training_step_is_not_disturbed(with_cp):
    """The real measurement: same random numbers, gradients and hooks as when it was made before."""
    x = torch.randn(2, 3, 40, 40)
    seen = []

    def step():
        model = small_model(drop_path_rate=0.5, with_cp=with_cp).train()
        block = model.stages[0].blocks[1]
        block.register_forward_hook(lambda *_: seen.append(1))
        block.norm1.weight.register_hook(lambda _: seen.append(2))
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            outs = model(x)
        sum(out.float().square().mean() for out in outs).backward()
        return [
            torch.rand(1),
            *(out.detach() for out in outs),
            *(p.grad for p in model.parameters()),
        ]

    first, calls = step(), list(seen)
    seen.clear()
    second = step()
    assert seen == calls
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)


def test_hooks_of_a_block_are_not_copied():
    """They may hold anything, and would be called."""

    class Recorder:
        def __deepcopy__(self, _):
            raise AssertionError("copied")

        def __call__(self, *_):
            raise AssertionError("called")

    block = small_model().stages[0].blocks[1]
    block.register_forward_hook(Recorder())
    block.register_full_backward_hook(Recorder())
    race, _ = make_race(block, (1, 10, 10, 16), settings(training=True))
    assert not autotune.measure(race).left_out


def test_weights_that_are_no_parameters():
    """Parallel training computes with pieces of a larger tensor, which have a graph behind them."""
    block = small_model().train().stages[0].blocks[1]
    flat = torch.randn(16, requires_grad=True)
    del block.norm1.weight
    block.norm1.weight = flat * 2
    race, _ = make_race(block, (1, 10, 10, 16), settings(training=True))
    assert len(race.candidates[0].check()) == 2 * (2 + len(list(block.parameters())) + 1)
    assert not autotune.measure(race).left_out


def test_checkpointed_block_measures_once(winner):
    races = winner("pytorch+cpu")
    block = small_model().train().stages[0].blocks[1]
    x = torch.randn(1, 10, 10, 16, requires_grad=True)
    checkpoint(block, x, use_reentrant=False).sum().backward()
    assert len(races) == 1


def test_steady_state_makes_few_calls(winner):
    winner("modules+sdpa")
    block, x = small_model().stages[0].blocks[1], torch.randn(1, 10, 10, 16)
    choice = block.ops.current(block, x).choice
    choice.of(x)
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(event) if event == "call" else None)
    try:
        choice.of(x)
    finally:
        sys.setprofile(None)
    assert len(calls) <= 15  # PyTorch's own included
