"""Weights are converted exactly once, however they are loaded, and never when resuming."""

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_checkpoint as mmengine_load
from torch import nn

from swin_dense import DeiT, SwinTransformer
from swin_dense.checkpoints import convert, load_backbone, load_checkpoint
from swin_dense.checkpoints.layouts import Layout
from swin_dense.engine.predictor import Predictor
from swin_dense.engine.weights import load_weights

SMALL = {"embed_dims": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 3}


@pytest.fixture
def conversions(monkeypatch):
    """Calls of the functions that convert a state dict to OpenMMLab's layout and resize it."""
    calls = []

    def count(owner, name):
        original = getattr(owner, name)

        def counted(*args):
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(owner, name, counted)

    count(SwinTransformer, "to_native")
    count(DeiT, "to_native")
    count(Layout, "to_openmmlab")
    return calls


ONCE = ["to_native", "to_openmmlab"]


class Model(BaseModule):
    """A whole model with a Swin backbone."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = SwinTransformer(**SMALL, **kwargs)
        self.head = nn.Linear(2, 2)


def init_cfg(path, state):
    torch.save(state, path)
    init = {"type": "Pretrained", "checkpoint": str(path)}
    SwinTransformer(**SMALL, init_cfg=init).init_weights()


def mmengine_s_loader(path, state):
    torch.save(state, path)
    mmengine_load(Model(), str(path), strict=True)


def head_of_another_size(_, state):
    load_weights(Model(), state | {"head.weight": torch.ones(5, 2)}, "x.pth", exact=False)


WAYS = {
    "load_state_dict of a backbone": lambda _, state: SwinTransformer(**SMALL).load_state_dict(
        state, strict=False
    ),
    "load_state_dict of a model": lambda _, state: Model().load_state_dict(state),
    "load_backbone": lambda _, state: load_backbone(
        SwinTransformer(**SMALL, in_channels=1), state, "x.pth"
    ),
    "init_cfg": init_cfg,
    "mmengine's loader": mmengine_s_loader,
    "load_weights": lambda _, state: load_weights(Model(), state, "x.pth"),
    "load_weights with a head of another size": head_of_another_size,
}


@pytest.mark.parametrize("way", WAYS)
def test_module_converts_once(way, tmp_path, conversions):
    state = convert({"state_dict": Model().state_dict()}, "official").state
    conversions.clear()
    WAYS[way](tmp_path / "w.pth", state)
    assert conversions == ONCE


def test_deit_converts_once(tmp_path, conversions):
    sizes = {"embed_dims": 12, "depth": 1, "num_heads": 3}
    path = tmp_path / "deit.pth"
    torch.save(DeiT(**sizes, pretrain_img_size=64).state_dict(), path)
    DeiT(**sizes, init_cfg={"type": "Pretrained", "checkpoint": str(path)}).init_weights()
    assert conversions == ["to_native"]
    conversions.clear()
    DeiT(**sizes).load_state_dict(torch.load(path))
    assert conversions == ["to_native"]


def test_conversion_tool_converts_once(conversions):
    convert(SwinTransformer(**SMALL).state_dict(), "hf")
    assert conversions == ["to_openmmlab"]


CONFIG = """
_base_ = {base!r}
model = dict(backbone=dict(init_cfg=None))
custom_hooks = [dict(type="EMAHook")]  # loads each checkpoint into a second model
"""


def test_tools_convert_once_and_not_when_resuming(tool, trained, tmp_path, conversions, capfd):
    config = tmp_path / "averaged.py"
    config.write_text(CONFIG.format(base=str(trained.config)))
    flags = [config, "--data-root", trained.data_root, "--work-dir", tmp_path / "run"]
    official = tmp_path / "official.pth"
    torch.save(convert(load_checkpoint(trained.checkpoint), "official").state, official)
    conversions.clear()
    capfd.readouterr()
    assert tool("train", *flags, "--cfg-options", f"load_from={official}") == 0
    assert conversions == ONCE
    assert capfd.readouterr().out.count("(official layout)") == 1
    conversions.clear()
    longer = "train_cfg.max_epochs=2" if trained.kind == "detector" else "train_cfg.max_iters=8"
    assert tool("train", *flags, "--resume", "--cfg-options", longer) == 0
    assert conversions == []
    assert tool("test", trained.config, trained.checkpoint, *flags[1:]) == 0
    assert conversions == ONCE
    conversions.clear()
    Predictor(trained.config, trained.checkpoint)
    assert conversions == ONCE
