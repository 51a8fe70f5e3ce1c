"""Which functions compute a block: decided once, at low cost, and as ``attn_impl`` says."""

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
from small_swin import SMALL
from torch import nn

from swin_dense import SwinTransformer
from swin_dense.backbones import swin
from swin_dense.backbones.layers import fusable_block
from swin_dense.ops.block import pytorch
from swin_dense.ops.dispatch import AttnImpl, Decision
from swin_dense.ops.window_attention import cpu, reference, sdpa

PACKAGE = str(Path(swin.__file__).parents[1])


def calls_of_ours(function):
    """Files of this package's functions that a call runs, one entry per call."""
    files = []

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            files.append(frame.f_code.co_filename)

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return files


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_block_forward_makes_few_calls_in_few_files(grad):
    """So that a reader can follow all of them."""
    block = SwinTransformer(arch="tiny").train(grad).stages[0].blocks[1]
    x = torch.randn(1, 14, 14, 96)
    with torch.set_grad_enabled(grad):
        block(x)  # caches the decision and the window index
        files = calls_of_ours(lambda: block(x))
    assert len(files) <= 60
    assert len(set(files)) <= 6


@pytest.fixture
def backends(monkeypatch):
    """Names of the functions that compute attention, norms and linear layers of blocks."""
    called = []

    def watch(module, name, label):
        inner = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: called.append(label) or inner(*a, **k))

    for module, name, label in [
        (reference, "shifted_window_attention", "reference"),
        (sdpa, "shifted_window_attention", "sdpa"),
        (cpu, "forward", "cpu"),
        (pytorch, "norm_linear", "norm_linear"),
        (pytorch, "proj_mlp", "proj_mlp"),
    ]:
        watch(module, name, label)
    return called


@pytest.mark.parametrize("impl", ["reference", "sdpa", "cpu", "auto"])
def test_attn_impl_reaches_every_layer(impl, backends):
    """Four blocks, a global attention block and patch merging; 'reference' fuses none of them."""
    model = SwinTransformer(**SMALL, attn_impl=impl).eval()
    with torch.no_grad():
        model(torch.randn(1, 3, 40, 40))
    attention = "cpu" if impl == "auto" else impl
    fused = impl != "reference"
    assert backends.count(attention) == 4
    assert backends.count("norm_linear") == (4 + 1 + 1) * fused
    assert backends.count("proj_mlp") == (4 + 1) * fused
    assert len(backends) == 4 + 11 * fused
    parsed = {m.attn_impl for m in model.modules() if hasattr(m, "attn_impl")}
    assert parsed == {AttnImpl.parse(impl)}


@pytest.fixture
def decisions(monkeypatch):
    """Number of times that a decision was computed."""
    made = []
    monkeypatch.setattr(swin, "fusable_block", lambda *a: made.append(1) or fusable_block(*a))
    return lambda: len(made)


def test_decision_is_renewed_when_the_block_changes(decisions):
    block = SwinTransformer(**SMALL).eval().stages[0].blocks[0]
    x = torch.randn(1, 10, 10, 16)

    def decided(change=lambda: None):
        before = decisions()
        change()
        block(x)
        block(x)
        return decisions() - before

    assert decided() == 1
    assert decided() == 0
    assert decided(lambda: block.norm1.weight.data.mul_(2)) == 0  # in place
    assert decided(lambda: setattr(block.ffn.layers[0], "2", nn.Dropout(0.5))) == 1
    assert decided(lambda: setattr(block.ffn.layers[0][2], "p", 0.25)) == 1
    assert decided(block.train) == 1
    assert decided(lambda: setattr(block.norm1, "weight", nn.Parameter(torch.ones(16)))) == 1
    state = {key: value.clone() for key, value in block.state_dict().items()}
    assert decided(lambda: block.load_state_dict(state, assign=True)) == 1
    assert decided(lambda: block.norm2.register_forward_hook(lambda *_: None)) == 0


def test_adding_and_removing_hooks():
    model, x = SwinTransformer(**SMALL).eval(), torch.randn(1, 10, 10, 16)
    block = model.stages[0].blocks[0]
    assert block.ops.current(block, x) is not None
    handle = block.ffn.layers[1].register_forward_hook(lambda *_: None)
    assert block.ops.current(block, x) is None
    handle.remove()
    assert block.ops.current(block, x) is not None
    handle = block.register_forward_hook(lambda *_: None)  # of the block itself, not of its layers
    assert block.ops.current(block, x) is not None
    handle.remove()


def test_copies_and_pickles_have_their_own_decision(decisions):
    block, x = SwinTransformer(**SMALL).eval().stages[0].blocks[0], torch.randn(1, 10, 10, 16)
    expected = block(x)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        before = decisions()
        assert torch.equal(other(x), expected)
        assert decisions() == before + 1
        other.norm1.weight.data.zero_()
        assert not torch.equal(other(x), expected)
    assert torch.equal(block(x), expected)


def test_decision_is_per_module():
    """DataParallel's replicas share the attributes of their model, but have other weights."""
    layer = nn.Linear(2, 2)
    decision = Decision(layer, lambda _: "fused")
    x = torch.ones(1, 2)
    assert decision.current(layer, x) == "fused"
    assert decision.current(copy.copy(layer), x) is None
