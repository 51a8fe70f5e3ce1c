"""tools/export.py: ONNX files and torch.export programs for images of any size."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from test_user_errors import DETECTOR, SEGMENTOR

from swin_dense import SwinTransformer
from swin_dense.engine.config.prepare import load_config
from swin_dense.errors import UserError
from swin_dense.exporting import export as exporting
from swin_dense.exporting.graphs import PARTS
from swin_dense.exporting.pooling import AdaptiveAvgPool
from swin_dense_cli import export as command_line

onnxruntime = pytest.importorskip("onnxruntime")
# Two stages are enough, as tracing takes seconds for each.
SHORT = ["model.backbone.depths=[2,1]", "model.backbone.num_heads=[1,1]"]
SHORT += ["model.backbone.strides=[4,2]", "model.backbone.out_indices=[0,1]"]
SHORT += ["model.decode_head.in_channels=[8,16]", "model.decode_head.in_index=[0,1]"]
SHORT += ["model.auxiliary_head.in_channels=16", "model.auxiliary_head.in_index=1"]
# What an export turns off: there are no graphs of CUDA in a file.
SHORT += ["model.backbone.cuda_graphs=2"]


@pytest.fixture(autouse=True)
def unlogged():
    """For pytest the compiler would log every step, which takes longer than the steps."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    from swin_dense.engine.config.load import parse_options

    cfg = load_config(SEGMENTOR, parse_options(SHORT))
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "random.pth")
    return tmp_path / "random.pth"


def export(tool, checkpoint, *flags) -> int:
    flags = (*flags, "--size", "96x128", "--cfg-options", *SHORT)
    return tool("export", SEGMENTOR, checkpoint, *flags)


def test_segmentor_as_onnx(tool, checkpoint, tmp_path, capfd):
    out = tmp_path / "segmentor.onnx"
    assert export(tool, checkpoint, "--format", "onnx", "--out", out) == 0
    assert "the same as PyTorch on 1 x 3 x 96 x 128, 2 x 3 x 128 x 192" in capfd.readouterr().out
    session = onnxruntime.InferenceSession(out)
    # Where the batch is free everywhere, Triton Inference Server needs no configuration.
    tensors = [*session.get_inputs(), *session.get_outputs()]
    assert all(isinstance(tensor.shape[0], str) for tensor in tensors)
    image = np.random.default_rng(0).uniform(0, 255, (3, 3, 90, 141)).astype(np.float32)
    (labels,) = session.run(["label_map"], {"image": image})
    assert labels.shape == (3, 90, 141)
    assert labels.dtype == np.int64


def test_backbone_as_program(tool, checkpoint, tmp_path):
    out = tmp_path / "backbone.pt2"
    flags = ("--format", "torch-export", "--part", "backbone", "--out", out)
    assert export(tool, checkpoint, *flags) == 0
    maps = torch.export.load(out).module()(torch.rand(1, 3, 70, 111))
    assert [tuple(m.shape) for m in maps] == [(1, 8, 18, 28), (1, 16, 9, 14)]


class Disagreeing(torch.nn.Module):
    """Computes one thing, and should another."""

    outputs = "map"

    def forward(self, image):
        return image * 2

    def reference(self, image):
        return image * 2.001


class OfOneSize(Disagreeing):
    """Specialises its graph."""

    def forward(self, image):
        return image * image.shape[2] if image.shape[2] == 96 else image


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_what_disagrees_or_has_one_size_is_refused(format):
    with pytest.raises(UserError, match=r"differs from PyTorch for images of 1 x 96 x 128, by 5"):
        exporting.export(Disagreeing(), format, (96, 128), "config.py")
    with pytest.raises(UserError, match=r"config.py cannot be exported as .*nothing was written"):
        exporting.export(OfOneSize(), format, (96, 128), "config.py")


def test_command_line_has_the_choices_of_the_package():
    assert set(command_line.FORMATS) == set(exporting.FORMATS)
    assert command_line.PARTS == PARTS


def test_whole_detector_is_refused(failure, tmp_path):
    cfg = load_config(DETECTOR)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "random.pth")
    line = failure("export", DETECTOR, tmp_path / "random.pth", "--format", "onnx")
    assert "not exported whole: add --part backbone" in line


def test_onnx_of_the_backbone_by_hand_is_for_all_sizes(tmp_path):
    """As users call it: it failed, or gave maps of other sizes than PyTorch."""
    torch.manual_seed(0)
    sizes = {"depths": (2, 1), "num_heads": (2, 2), "strides": (4, 2), "out_indices": (0, 1)}
    backbone = SwinTransformer(embed_dims=8, window_size=3, **sizes).eval()
    axis = torch.export.Dim.DYNAMIC
    options = {"dynamo": True, "input_names": ["x"], "verbose": False}
    shapes = ({0: axis, 2: axis, 3: axis},)
    torch.onnx.export(
        backbone, (torch.rand(2, 3, 48, 64),), tmp_path / "b.onnx", dynamic_shapes=shapes, **options
    )
    session = onnxruntime.InferenceSession(tmp_path / "b.onnx")
    for size in [(1, 3, 48, 64), (2, 3, 64, 33), (3, 3, 71, 45)]:
        x = torch.rand(size)
        with torch.no_grad():
            expected = backbone(x)
        for ours, theirs in zip(session.run(None, {"x": x.numpy()}), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(7, 5), (1, 4), (12, 18)])
def test_pooling_is_adaptive_pooling(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    for parts in (1, 2, 3, 6):
        expected = torch.nn.functional.adaptive_avg_pool2d(x, parts)
        torch.testing.assert_close(AdaptiveAvgPool(parts, parts)(x), expected)
