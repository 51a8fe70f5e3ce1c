"""tools/export.py: ONNX files and torch.export programs for images of any size."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from test_user_errors import DETECTOR, SEGMENTOR

from swin_dense import SwinTransformer, SwinTransformerV2
from swin_dense.engine.config.prepare import load_config
from swin_dense.errors import UserError
from swin_dense.exporting import export as exporting
from swin_dense.exporting.comparison import largest_error
from swin_dense.exporting.graphs import PARTS
from swin_dense.exporting.operators import AdaptiveAvgPool, StridedMaxPool, corner_pool
from swin_dense_cli import export as command_line

onnxruntime = pytest.importorskip("onnxruntime")
# Two stages with one block are enough, as tracing takes seconds for each.
SHORT = ["model.backbone.depths=[1,1]", "model.backbone.num_heads=[1,1]"]
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


def save_random(config: Path, options: list[str], out: Path) -> Path:
    """A checkpoint of a config's model with random weights."""
    from swin_dense.engine.config.load import parse_options

    torch.manual_seed(0)
    cfg = load_config(config, parse_options(options))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, out)
    return out


def is_batch_free(session: onnxruntime.InferenceSession) -> bool:
    """In all inputs and outputs, as Triton Inference Server asks: docs/serving.md."""
    tensors = [*session.get_inputs(), *session.get_outputs()]
    return all(isinstance(tensor.shape[0], str) for tensor in tensors)


def test_segmentor_as_onnx(tool, tmp_path, capfd):
    checkpoint = save_random(SEGMENTOR, SHORT, tmp_path / "random.pth")
    out = tmp_path / "segmentor.onnx"
    flags = ("--format", "onnx", "--out", out, "--size", "96x128", "--cfg-options", *SHORT)
    assert tool("export", SEGMENTOR, checkpoint, *flags) == 0
    assert "the same as PyTorch on 1 x 3 x 96 x 128, 2 x 3 x 128 x 192" in capfd.readouterr().out
    session = onnxruntime.InferenceSession(out)
    assert is_batch_free(session)
    image = np.random.default_rng(0).uniform(0, 255, (3, 3, 90, 141)).astype(np.float32)
    (labels,) = session.run(["label_map"], {"image": image})
    assert labels.shape == (3, 90, 141)
    assert labels.dtype == np.int64


@MODELS.register_module()
class TwoConvolutions(torch.nn.Module):
    """A backbone that is traced in no time."""

    def __init__(self, **_options):
        super().__init__()
        self.first, self.second = (
            torch.nn.Conv2d(*channels, 4, stride, padding=1)
            for channels, stride in (((3, 8), 4), ((8, 16), 2))
        )

    def forward(self, x):
        x = self.first(x)
        return x, self.second(x)


CONVOLUTIONS = ["model.backbone.type=TwoConvolutions", "model.backbone.init_cfg=None"]


def test_backbone_as_program(tool, tmp_path):
    options = CONVOLUTIONS + [o for o in SHORT if "backbone" not in o]
    save_random(SEGMENTOR, options, tmp_path / "random.pth")
    out = tmp_path / "backbone.pt2"
    flags = ("--format", "torch-export", "--part", "backbone", "--out", out, "--size", "96x128")
    more = ("--cfg-options", *options)
    assert tool("export", SEGMENTOR, tmp_path / "random.pth", *flags, *more) == 0
    maps = torch.export.load(out).module()(torch.rand(1, 3, 70, 111))
    assert [tuple(m.shape) for m in maps] == [(1, 8, 18, 28), (1, 16, 9, 14)]


class Disagreeing(torch.nn.Module):
    """Computes one thing, and should another."""

    tolerance = 1e-4

    def forward(self, image):
        return image * 2

    def names(self, count):
        return ["double"]

    def error(self, found, image):
        return largest_error(found[0], image * 2.001)


class OfOneSize(Disagreeing):
    """Specialises its graph."""

    def forward(self, image):
        return image * image.shape[2] if image.shape[2] == 96 else image


def export(graph, format):
    program = exporting.trace(graph, (96, 128), "config.py")
    return exporting.convert(program, graph, format, "config.py")


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_what_disagrees_or_has_one_size_is_refused(format):
    with pytest.raises(UserError, match=r"differs from PyTorch for images of 1 x 96 x 128, by 5"):
        export(Disagreeing(), format)
    with pytest.raises(UserError, match=r"config.py cannot be exported.*, nothing was written"):
        export(OfOneSize(), format)


def test_command_line_has_the_choices_of_the_package():
    assert set(command_line.FORMATS) == set(exporting.FORMATS)
    assert command_line.PARTS == PARTS


def test_detector_as_onnx(tool, tmp_path, capfd):
    options = [*CONVOLUTIONS, "model.neck.in_channels=[8,16]", "model.neck.num_outs=3"]
    options += ["model.rpn_head.anchor_generator.strides=[4,8,16]"]
    options += [f"model.roi_head.{x}_roi_extractor.featmap_strides=[4,8]" for x in ("bbox", "mask")]
    save_random(DETECTOR, options, tmp_path / "random.pth")
    flags = ("--format", "onnx", "--out", tmp_path / "d.onnx", "--size", "96x128")
    assert tool("export", DETECTOR, tmp_path / "random.pth", *flags, "--cfg-options", *options) == 0
    printed = capfd.readouterr().out
    assert "the same as PyTorch on 1 x 3 x 96 x 128, 2 x 3 x 128 x 192" in printed
    assert " (40 detections)\n" in printed
    assert (
        "gives boxes (B, 10, 4), scores (B, 10), labels (B, 10), masks (B, 10, 28, 28)" in printed
    )
    session = onnxruntime.InferenceSession(tmp_path / "d.onnx")
    assert is_batch_free(session)
    image = np.random.default_rng(0).uniform(0, 255, (3, 3, 90, 141)).astype(np.float32)
    names = ["boxes", "scores", "labels", "masks"]
    boxes, scores, labels, masks = session.run(names, {"image": image})
    assert boxes.shape == (3, 10, 4)
    assert (boxes[..., 2:] <= [141, 90]).all()
    assert (np.diff(scores) <= 0).all()  # best first
    assert set(labels.flatten()) <= {-1, 0, 1, 2, 3}
    assert masks.shape == (3, 10, 28, 28)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["circle", "square", "triangle", "star"]


V1 = {"depths": (2, 1), "num_heads": (2, 2), "strides": (4, 2), "out_indices": (0, 1)}
V2 = {"embed_dims": 8, "depths": (2,), "num_heads": (2,)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: SwinTransformer(embed_dims=8, window_size=3, **V1),
        lambda: SwinTransformerV2(V2, window_size=4, out_indices=(0,)),
    ],
    ids=["v1", "v2"],
)
def test_onnx_of_the_backbone_by_hand_is_for_all_sizes(tmp_path, make):
    """As users call it: it failed, or gave maps of other sizes than PyTorch."""
    torch.manual_seed(0)
    backbone = make().eval()
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


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_older_exporter_says_that_it_is_for_one_size(tmp_path):
    """It wrote a file with dynamic axes, which failed in its runtime only."""
    backbone = SwinTransformer(embed_dims=8, window_size=3, **V1).eval()
    axes = {"x": {0: "b", 2: "h", 3: "w"}}
    options = {"dynamo": False, "input_names": ["x"], "dynamic_axes": axes}
    with pytest.warns(UserWarning, match=r"is for images of this size alone: tools/export.py"):
        torch.onnx.export(backbone, (torch.rand(1, 3, 48, 64),), tmp_path / "b.onnx", **options)


@pytest.mark.parametrize("size", [(7, 5), (1, 4), (12, 18)])
def test_pooling_is_adaptive_pooling(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    for parts in (1, 2, 3, 6):
        expected = torch.nn.functional.adaptive_avg_pool2d(x, parts)
        torch.testing.assert_close(AdaptiveAvgPool(parts, parts)(x), expected)


@pytest.mark.parametrize("options", [(3, 2, 1), (1, 2), (2, 2), (3, (2, 3), (1, 0))])
@pytest.mark.parametrize("size", [(7, 5), (8, 6), (3, 12)])
def test_pooling_with_strides_is_pooling(size, options):
    x, pool = torch.randn(2, 3, *size), torch.nn.MaxPool2d(*options)
    assert torch.equal(StridedMaxPool(pool)(x), pool(x))


@pytest.mark.parametrize("size", [1, 2, 7, 130])
@pytest.mark.parametrize("top_left", [True, False])
def test_corner_pooling_is_a_running_maximum(size, top_left):
    from swin_dense.models.heads import reppoints_v2_layers

    x = torch.randn(2, 3, size, 5)
    for dim in (2, 3):
        expected = reppoints_v2_layers.corner_pool(x, dim, top_left)
        assert torch.equal(corner_pool(x, dim, top_left), expected)
