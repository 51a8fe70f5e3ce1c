"""Loading into whole models: any layout of the backbone, any container, one report."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from torch import nn

from swin_dense import SwinTransformer
from swin_dense.checkpoints import TARGETS, LoadReport, convert, load_converted
from swin_dense.engine.weights import check_scale, load_weights
from swin_dense.errors import UserError

SMALL = {"embed_dims": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 3}


class Model(BaseModule):
    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = SwinTransformer(**(SMALL | kwargs))
        self.head = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def random_model():
    model = Model().eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor)
    return model


def in_layout(model, layout):
    """The state dict with its backbone in a layout."""
    state = {f"head.{k}": v for k, v in model.head.state_dict().items()}
    backbone = convert(model.backbone.state_dict(), layout).state
    return {f"backbone.{k}": v for k, v in backbone.items()} | state


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def same(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("layout", TARGETS)
def test_backbone_in_any_layout(layout, capsys):
    source, model = random_model(), Model()
    load_weights(model, {"state_dict": in_layout(source, layout)}, "x.pth")
    assert same(source, model)
    out = capsys.readouterr().out
    name = "hf" if layout.startswith("hf") else layout
    count = len(list(model.parameters())) + 2  # plus the statistics of batch norm
    assert out == f"Weights from x.pth ({name} layout): {count} loaded\n"


WRAPPED = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s},
    "data parallel": lambda s: {"state_dict": prefixed("module.", s)},
    "averaged": lambda s: {
        "state_dict_ema": s,
        "state_dict": {key: torch.zeros_like(value) for key, value in s.items()},
    },
    "Soft Teacher": lambda s: {
        "state_dict": prefixed("student.", {key: torch.zeros_like(v) for key, v in s.items()})
        | prefixed("teacher.", s)
    },
    "training wrapper": lambda s: {"state_dict": prefixed("detector.module.", s)},
}


@pytest.mark.parametrize("container", WRAPPED)
def test_model_is_found_in_any_container(container):
    source, model = random_model(), Model()
    load_weights(model, WRAPPED[container](in_layout(source, "official")), "x.pth")
    assert same(source, model)


def test_resized_parameters_are_reported_by_their_full_names(capsys):
    model = Model(window_size=5, in_channels=1)
    load_weights(model, in_layout(random_model(), "timm"), "x.pth")
    out = capsys.readouterr().out
    assert "5 of them resized" in out
    assert "resized (5): backbone.patch_embed.projection.weight, backbone.stages.0" in out


def test_backbone_weights_leave_the_heads_untrained(capsys):
    source, model = random_model(), Model()
    state = convert(source.backbone.state_dict(), "torchvision").state
    with pytest.raises(UserError, match=r"x.pth is of another model: 6 of \d+ parameters missing"):
        load_weights(model, state, "x.pth")
    load_weights(model, state, "x.pth", exact=False)
    assert same(source.backbone, model.backbone)
    out = capsys.readouterr().out
    assert "missing (6): head.0.weight" in out
    assert "these start untrained" in out


def test_weights_without_a_backbone_raise():
    state = prefixed("head.", random_model().head.state_dict())
    with pytest.raises(UserError, match=r"x.pth .* missing or of another size, first patch_embed"):
        load_weights(Model(), state, "x.pth", exact=False)


def test_heads_for_other_classes_start_untrained(capsys):
    source, model = random_model(), Model()
    state = in_layout(source, "official") | {"head.0.weight": torch.ones(5, 2)}
    load_weights(model, state, "x.pth", exact=False)
    out = capsys.readouterr().out
    assert "of other sizes (1): head.0.weight (5, 2) for (2, 2); these start untrained" in out
    assert "unexpected" not in out
    assert torch.equal(model.head[0].bias, source.head[0].bias)


def test_model_without_swin_loads(capsys):
    source, model = nn.Linear(2, 2), nn.Linear(2, 2)
    load_weights(model, {"state_dict": source.state_dict()}, "x.pth")
    assert same(source, model)
    assert capsys.readouterr().out == "Weights from x.pth: 2 loaded\n"


def test_resuming_prints_no_report(capsys):
    source, model = random_model(), Model()
    load_converted(model, {"state_dict": source.state_dict()}, LoadReport("x.pth"), exact=True)
    assert same(source, model)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="of another model"):
        load_converted(model, source.head.state_dict(), LoadReport("x.pth"), exact=True)


@pytest.mark.parametrize(
    ("trained", "warns"),
    [((96, 96), True), ((384, 384), False), (384, False), (None, False), ([[], "x"], False)],
)
def test_other_sizes_than_those_of_the_training_are_told(trained, warns, capsys):
    """Trained with ``--image-size 96``, tested by the config alone: AP was 0 without a word."""
    steps = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (384, 384)}]
    cfg = Config({"test_dataloader": {"dataset": {"type": "CocoDataset", "pipeline": steps}}})
    check_scale(cfg, {"meta": {"test_scale": trained}}, "last.pth")
    said = "the training of last.pth evaluated images of" in capsys.readouterr().out
    assert said == warns
    check_scale(cfg, {"meta": None}, "last.pth")
