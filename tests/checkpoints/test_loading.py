"""Loading weights in other layouts and sizes."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_checkpoint as mmengine_load
from torch import nn

from swin_dense import SwinTransformer
from swin_dense.checkpoints import TARGETS, convert, find_backbone, load_backbone
from swin_dense.checkpoints.layouts import OFFICIAL
from swin_dense.checkpoints.resizing import (
    resize_absolute_pos_embed,
    resize_bias_table,
    resize_input_channels,
    stretch_bias_table,
)
from swin_dense.errors import UserError

SMALL = {"embed_dims": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 3}
INDEX = "relative_position_index"


def random_model(**kwargs):
    model = SwinTransformer(**(SMALL | kwargs)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def same_parameters(a, b):
    return all(torch.equal(p, b.get_parameter(n)) for n, p in a.named_parameters())


class Detector(BaseModule):
    """A model with a Swin backbone under the usual name."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = SwinTransformer(**(SMALL | kwargs))
        self.head = nn.Linear(2, 2)


def as_released(model):
    """A state dict like the official releases: official keys, masks, classifier head."""
    state = OFFICIAL.from_openmmlab(model.state_dict())
    state = {k: v for k, v in state.items() if not k.startswith("norm")}
    state["layers.0.blocks.0.attn_mask"] = torch.zeros(4, 9, 9)
    return state | {"norm.weight": torch.ones(64), "head.weight": torch.ones(10, 64)}


def test_layouts_round_trip():
    state = random_model(use_abs_pos_embed=True).state_dict()
    official = OFFICIAL.from_openmmlab(state)
    assert find_backbone(state).layout.name == "openmmlab"
    assert find_backbone(official).layout.name == "official"
    assert find_backbone({"conv1.weight": torch.zeros(1)}) is None
    back = TARGETS["openmmlab"].from_openmmlab(OFFICIAL.to_openmmlab(official))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)


def test_patch_merging_has_the_official_channel_order():
    """The official code concatenates four strided slices; converted weights must match that."""
    model = random_model()
    merging = model.stages[0].downsample
    official = OFFICIAL.from_openmmlab(model.state_dict())
    x = torch.randn(1, 6, 4, 8)
    slices = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    joined = torch.cat(slices, -1)
    weight, bias = (official[f"layers.0.downsample.norm.{n}"] for n in ("weight", "bias"))
    expected = nn.functional.layer_norm(joined, (32,), weight, bias)
    expected = expected @ official["layers.0.downsample.reduction.weight"].T
    torch.testing.assert_close(merging(x)[0], expected)


def test_official_classifier_loads_with_a_report():
    source = random_model()
    model = random_model()
    report = load_backbone(model, {"model": as_released(source)}, "swin.pth")
    assert report.layout == "official"
    assert report.missing == [f"norm{i}.{n}" for i in range(4) for n in ("weight", "bias")]
    assert report.unexpected == ["norm.weight", "head.fc.weight"]
    assert not report.resized
    assert len(report.loaded) == len(list(model.parameters())) - 8
    text = str(report)
    assert "swin.pth (official layout)" in text
    assert "missing (8): norm0.weight" in text


@pytest.mark.parametrize("loader", ["torch", "mmengine"])
def test_detector_loads_either_layout(tmp_path, loader):
    source, target = Detector(), Detector()
    state = {"head." + k: v for k, v in source.head.state_dict().items()}
    official = OFFICIAL.from_openmmlab(source.backbone.state_dict())
    state |= {"backbone." + k: v for k, v in official.items()}
    if loader == "torch":
        target.load_state_dict(state, strict=True)
    else:
        torch.save({"state_dict": state}, tmp_path / "detector.pth")
        mmengine_load(target, str(tmp_path / "detector.pth"), map_location="cpu", strict=True)
    assert same_parameters(source, target)
    assert len(state) == len(source.state_dict())  # the caller's dict is not modified


def test_other_window_size_resizes_the_bias_tables_only():
    source = random_model()
    model = random_model(window_size=5)
    report = load_backbone(model, source.state_dict(), "w")
    assert len(report.resized) == 5
    assert not report.missing
    for name, p in model.named_parameters():
        old = source.get_parameter(name)
        if name.endswith("table"):
            assert torch.equal(p, resize_bias_table(old, 81))
        else:
            assert torch.equal(p, old)
    # Through a plain load_state_dict too, index buffers included.
    other = random_model(window_size=5)
    other.load_state_dict(source.state_dict(), strict=True)
    assert same_parameters(other, model)
    assert other.state_dict()[f"stages.0.blocks.0.attn.w_msa.{INDEX}"].shape == (25, 25)


def test_resizing_a_table_keeps_a_smooth_bias():
    steps = torch.linspace(-1, 1, 13)
    smooth = (steps[:, None] ** 2 + 0.5 * steps[None]).reshape(-1, 1)
    finer = torch.linspace(-1, 1, 23)
    expected = (finer[:, None] ** 2 + 0.5 * finer[None]).reshape(-1, 1)
    # Bicubic samples at pixel centres: the ends are half a step inside the corners.
    assert (resize_bias_table(smooth, 23**2) - expected).abs().max() < 0.12
    assert torch.equal(resize_bias_table(smooth, 169), smooth)
    with pytest.raises(ValueError, match="rows"):
        resize_bias_table(smooth, 168)


@pytest.mark.parametrize("four_dims", [False, True])
def test_absolute_embedding_of_another_image_size(four_dims):
    source = random_model(use_abs_pos_embed=True, pretrain_img_size=32)
    state = source.state_dict()
    if four_dims:  # as the official detection code stores it
        state["absolute_pos_embed"] = (
            state["absolute_pos_embed"].view(1, 8, 8, 8).permute(0, 3, 1, 2)
        )
    same = random_model(use_abs_pos_embed=True, pretrain_img_size=32)
    same.load_state_dict(state)
    assert same_parameters(same, source)
    larger = random_model(use_abs_pos_embed=True, pretrain_img_size=(40, 48))
    report = load_backbone(larger, state, "w")
    assert report.resized == ["absolute_pos_embed"]
    expected = resize_absolute_pos_embed(source.absolute_pos_embed, (8, 8), (10, 12))
    assert torch.equal(larger.absolute_pos_embed, expected.reshape(1, 120, 8))


def test_weights_of_another_model_raise():
    model = random_model()
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(UserError, match=r"other.pth is of .* first patch_embed.projection"):
        load_backbone(model, random_model(embed_dims=16).state_dict(), "other.pth")
    with pytest.raises(UserError, match=r"86 of 86 parameters missing.* \(unknown layout\)"):
        load_backbone(model, {"conv1.weight": torch.ones(3)}, "resnet.pth")
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("layout", ["openmmlab", "official"])
@pytest.mark.parametrize("depths", [(1, 1, 3, 1), (1, 1, 1, 1)])
def test_weights_of_another_depth_are_refused_by_it(depths, layout):
    """As Swin-S for Swin-T, which has all of its parameters."""
    state = TARGETS[layout].from_openmmlab(random_model(depths=depths).state_dict())
    words = f"x.pth is of another model: its stages have {', '.join(map(str, depths))} blocks"
    with pytest.raises(UserError, match=f"{words}, those of the config's backbone 1, 1, 2, 1"):
        load_backbone(random_model(), state, "x.pth")


@pytest.mark.parametrize(("there", "wanted"), [(3, 1), (3, 4), (3, 6), (4, 3), (1, 3), (5, 2)])
def test_other_input_channels_embed_a_grey_image_alike(there, wanted):
    """Equal values in all channels, in any pattern: the documented rule of the resizing."""
    source = random_model(in_channels=there)
    model = random_model(in_channels=wanted)
    report = load_backbone(model, source.state_dict(), "w")
    assert report.resized == ["patch_embed.projection.weight"]
    grey = torch.randn(1, 1, 16, 16)
    expected = source.patch_embed(grey.expand(-1, there, -1, -1))
    found = model.patch_embed(grey.expand(-1, wanted, -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_input_channels_are_repeated_cyclically():
    weight = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    assert resize_input_channels(weight, 1).flatten().tolist() == [7]
    assert resize_input_channels(weight, 4).flatten().tolist() == [0.5, 2, 4, 0.5]
    assert resize_input_channels(weight, 6).flatten().tolist() == [0.5, 1, 2, 0.5, 1, 2]


def test_absolute_embedding_of_a_rectangular_image():
    source = random_model(use_abs_pos_embed=True, pretrain_img_size=(16, 32))  # 4 x 8 patches
    model = random_model(use_abs_pos_embed=True, pretrain_img_size=(32, 64))
    report = load_backbone(model, source.state_dict(), "w")
    assert report.resized == ["absolute_pos_embed"]
    expected = resize_absolute_pos_embed(source.absolute_pos_embed, (4, 8), (8, 16))
    assert torch.equal(model.absolute_pos_embed, expected.reshape(1, 128, 8))
    # Neither square nor of these proportions: its grid is unknown.
    other = random_model(use_abs_pos_embed=True, pretrain_img_size=(24, 32))
    with pytest.raises(UserError, match=r"absolute_pos_embed \(1, 32, 8\) for \(1, 48, 8\)"):
        load_backbone(other, source.state_dict(), "w")


def test_weights_of_a_size_that_no_rule_fits_raise():
    """Those of Video Swin: names and 95 % of the values fit, its windows and patches are 3-d."""
    state = as_released(random_model())
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, None].repeat(
        1, 1, 2, 1, 1
    )
    for name in [name for name in state if name.endswith("table")]:
        state[name] = state[name].repeat(15, 1)
    model = random_model()
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(UserError) as error:
        load_backbone(model, state, "video.pth")
    assert "video.pth is of another model" in str(error.value)
    assert "patch_embed.projection.weight (8, 3, 2, 4, 4) for (8, 3, 4, 4)" in str(error.value)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    # One such weight alone too, though it is less than 5 % of all.
    state = random_model().state_dict() | {"patch_embed.norm.bias": torch.ones(9)}
    with pytest.raises(
        UserError, match=r"1 of 86 .*first patch_embed.norm.bias.*\(9,\) for \(8,\)"
    ):
        load_backbone(model, state, "one.pth")


@pytest.mark.parametrize("name", ["layers.0.downsample.norm.bias", "absolute_pos_embed"])
@pytest.mark.parametrize("value", [torch.tensor(1.0), torch.ones(0), torch.ones(63)])
def test_weights_of_shapes_that_no_swin_has_raise(name, value):
    state = as_released(random_model(use_abs_pos_embed=True)) | {name: value}
    with pytest.raises(UserError) as error:
        load_backbone(random_model(use_abs_pos_embed=True), state, "w")
    assert "\n" not in str(error.value)
    if "norm" in name and value.numel():
        with pytest.raises(UserError, match="cannot be converted"):
            convert(state, "openmmlab")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["attn.logit_scale", "attn.cpb_mlp.0.weight"], "Swin Transformer V2"),
        (["attn.cpb_mlp.0.weight", "mlp._moe_layer.experts.batched_fc1_w"], "Swin-MoE"),
    ],
)
def test_other_swins_are_refused_as_what_they_are(names, kind):
    state = as_released(random_model())
    state |= {f"layers.0.blocks.0.{name}": torch.ones(1, 1, 1) for name in names}
    with pytest.raises(UserError, match=f"weights of {kind}: "):
        random_model().load_state_dict(state, strict=False)


@pytest.mark.parametrize(("window", "wanted"), [(6, 7), (7, 12), (12, 7), (7, 24)])
def test_stretched_bias_tables_are_the_authors(window, wanted):
    """With scipy, as their code for SimMIM's fine-tuning: a cubic spline over moved offsets."""
    interpolate = pytest.importorskip("scipy.interpolate")
    table = torch.randn((2 * window - 1) ** 2, 2)
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        sums = sum(q**i for i in range(window - 1))
        low, high = (low, q) if sums > wanted - 1 else (q, high)
    far = [sum(q**i for i in range(n)) for n in range(1, window)]
    places = [-x for x in reversed(far)] + [0] + far
    offsets = torch.arange(1.0 - wanted, wanted).clamp(-far[-1], far[-1]).numpy()
    found = stretch_bias_table(table, (2 * wanted - 1) ** 2)
    for head in range(2):
        values = table[:, head].view(2 * window - 1, -1).double().numpy()
        spline = interpolate.RectBivariateSpline(places, places, values, s=0)
        expected = torch.from_numpy(spline(offsets, offsets)).float().flatten()
        torch.testing.assert_close(found[:, head], expected, atol=1e-4, rtol=1e-4)


def test_stretching_keeps_what_is_near():
    steps = torch.arange(-6.0, 7)
    table = (steps[:, None].abs() + steps[None].abs()).reshape(-1, 1)
    grid = stretch_bias_table(table, 23**2).view(23, 23)
    assert grid[11, 11] == 0
    assert grid[11, 12] == pytest.approx(1)  # resize_bias_table has 0.6 there
    assert grid[0, 0] == pytest.approx(12, abs=1e-3)
    assert torch.allclose(grid, grid.t())
    assert torch.allclose(grid, grid.flip(0, 1))
    assert torch.equal(stretch_bias_table(torch.ones(169, 3), 529), torch.ones(529, 3))
    with pytest.raises(UserError, match="windows of 3 or more, not 2"):
        stretch_bias_table(torch.ones(9, 1), 169)


def test_geometric_resizing_is_asked_for_in_init_cfg(tmp_path):
    source = random_model()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    init = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")}
    model = random_model(window_size=5, init_cfg=init | {"bias_tables": "geometric"})
    model.init_weights()
    name = "stages.0.blocks.0.attn.w_msa.relative_position_bias_table"
    table = source.get_parameter(name)
    assert torch.equal(model.get_parameter(name), stretch_bias_table(table, 81))
    assert not torch.allclose(model.get_parameter(name), resize_bias_table(table, 81))
    with pytest.raises(ValueError, match="bias_tables must be one of bicubic, geometric, got 'x'"):
        random_model(init_cfg=init | {"bias_tables": "x"})


@pytest.fixture
def logged():
    """The records of OpenMMLab's logger during a test."""
    records = []
    handler = logging.Handler(logging.INFO)
    handler.emit = records.append
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


class TestLoadStateDict:
    """What ``load_state_dict`` does beyond torch's."""

    def test_reports_once_when_it_converts(self, logged):
        source, model = random_model(), random_model()
        model.load_state_dict(OFFICIAL.from_openmmlab(source.state_dict()))
        (record,) = logged
        assert "(official layout): 86 loaded" in record.getMessage()
        assert record.for_user

    def test_is_silent_when_nothing_changes(self, logged):
        random_model().load_state_dict(random_model().state_dict())
        assert not logged

    def test_refuses_weights_below_the_minimum_coverage(self):
        state = random_model().state_dict()
        half = {key: value for key, value in state.items() if "stages.3" not in key}
        with pytest.raises(UserError, match=r"of 86 .*, first stages.3.blocks.0.norm1"):
            random_model().load_state_dict(half, strict=False)

    def test_leaves_a_detector_alone_that_gets_no_backbone_weights(self):
        detector = Detector()
        weights = {"head.weight": torch.ones(2, 2), "head.bias": torch.zeros(2)}
        result = detector.load_state_dict(weights, strict=False)
        assert not result.unexpected_keys
        assert torch.equal(detector.head.weight, torch.ones(2, 2))

    def test_takes_a_whole_checkpoint(self):
        source, model = random_model(), random_model()
        model.load_state_dict({"model": source.state_dict(), "epoch": 3})
        assert same_parameters(source, model)
