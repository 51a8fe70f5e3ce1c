"""Other libraries with our weights, and errors when their outputs differ."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from swin_dense.benchmarks import backbone, baselines
from swin_dense.benchmarks.backbone import measure_backbone, measure_memory, measure_scaling
from swin_dense.benchmarks.baselines import (
    BASELINES,
    OURS,
    Spec,
    build_models,
    check_agreement,
    differences,
)
from swin_dense.benchmarks.measurement import Run
from swin_dense.errors import UserError

CPU = torch.device("cpu")
RUN = Run(batch=1, dtype="fp32", rounds=2, device=CPU)
MODULES = {"mmdet": "mmdet", "timm": "timm", "hf": "transformers", "torchvision": "torchvision"}


def tiny(side: int, window: int = 4, **more) -> Spec:
    return Spec(8, (1, 1, 2, 1), (1, 2, 2, 4), window, (side, side), drop_path_rate=0.0, **more)


@pytest.mark.parametrize("name", MODULES)
def test_baselines_agree_in_outputs_and_gradients(name):
    pytest.importorskip(MODULES[name])
    spec = tiny(256)  # the last feature map has 8 x 8 tokens: 2 x 2 windows
    assert spec.whole_windows
    models = build_models(spec, [name], CPU)
    error = differences(models, RUN.image(spec.size), RUN)[name]
    assert error < 1e-5  # rounding of float32


@pytest.mark.parametrize("name", ["mmpretrain", "hf", "torchvision"])
def test_baselines_of_swin_v2_agree(name):
    pytest.importorskip({"hf": "transformers"}.get(name, name))
    spec = tiny(256, version=2)
    error = differences(build_models(spec, [name], CPU), RUN.image(spec.size), RUN)[name]
    assert error < 1e-4  # rounding of float32, of cosines times up to 100


@pytest.mark.parametrize(
    ("arch", "usual", "other"),
    [
        ("tiny", ["mmdet", "timm", "hf", "torchvision"], "mmpretrain"),
        ("v2_tiny", ["mmpretrain", "hf", "torchvision"], "timm"),
    ],
)
def test_baselines_have_the_version(arch, usual, other):
    spec = Spec.of_arch(arch, 8, (64, 64))
    assert baselines.parse_baselines(None, spec) == usual
    expected = f"{other} is not compared with Swin V{spec.version}: leave it out"
    with pytest.raises(UserError, match=expected):
        baselines.parse_baselines(f"hf,{other}", spec)


@pytest.mark.parametrize(
    ("size", "window", "whole"),
    [
        ((448, 448), 7, True),
        ((224, 224), 7, False),  # a feature map of one window: some libraries do not shift it
        ((480, 640), 7, False),
        ((256, 512), 4, True),
        ((250, 512), 4, False),
    ],
)
def test_input_sizes_at_which_all_libraries_agree(size, window, whole):
    assert Spec(8, (1,) * 4, (1,) * 4, window, size).whole_windows == whole


def test_different_definitions_are_noted():
    pytest.importorskip("timm")
    found = check_agreement(tiny(200), ["mmdet", "timm"], RUN)
    assert found["mmdet"]["checked_at"] == [200, 200]
    assert "note" not in found["mmdet"]
    assert found["timm"]["checked_at"] == [256, 256]
    assert "differs by" in found["timm"]["note"]
    assert found["timm"]["difference"] < 1e-5


class Wrong(nn.Module):
    """Our backbone with an error in one feature map."""

    def __init__(self, body: nn.Module, factor: float) -> None:
        super().__init__()
        self.body, self.factor = body, factor

    def forward(self, x):
        *maps, last = self.body(x)
        return (*maps, last * self.factor)


@pytest.mark.parametrize("side", [256, 200])
@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_different_outputs_raise_before_timing(side, factor, monkeypatch):
    def build(spec, names, device):
        models = {OURS: baselines.build_ours(spec).eval()}
        return models | {name: Wrong(models[OURS], factor) for name in names}

    monkeypatch.setattr(baselines, "build_models", build)
    monkeypatch.setattr(backbone, "interleave", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(UserError, match=r"timm and ours disagree.*nothing was timed"):
        measure_backbone(tiny(side), {"timm": "1"}, RUN)


def test_wrong_gradient_raises():
    class NoGradient(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return tuple(y.detach() + 0 * x.sum() for y in self.body(x))

    ours = baselines.build_ours(tiny(64)).eval()
    models = {OURS: ours, "mmdet": NoGradient(ours)}
    assert differences(models, RUN.image((64, 64)), RUN)["mmdet"] > 0.5


def test_record_of_the_backbone():
    record = measure_backbone(tiny(64), {"mmdet": "3.3.0"}, RUN)
    ours, mmdet = record["models"]
    assert (ours["name"], mmdet["name"], mmdet["version"]) == ("ours", "mmdet", "3.3.0")
    assert record["settings"]["size"] == [64, 64]
    assert set(record["rates"]) == {"copy_gb_s", "matmul_gflop_s"}
    for phase in ("forward", "training"):
        assert ours[phase]["times_ours"] == 1
        assert mmdet[phase]["launches"] > 50
        assert 0 < mmdet[phase]["roofline_share"] < 1
        expected = mmdet[phase]["median_ms"] / ours[phase]["median_ms"]
        assert mmdet[phase]["times_ours"] == pytest.approx(expected, rel=1e-2)
    assert mmdet["training"]["memory_mb"] > 0
    assert record["roofline_ms"]["training"] == pytest.approx(
        3 * record["roofline_ms"]["forward"],
        abs=3e-4,  # both are rounded
    )


def test_only_our_backbone_uses_cuda_graphs(monkeypatch):
    asked = []

    class Ours(baselines.SwinTransformer):
        def __init__(self, cuda_graphs=0, **arguments):
            asked.append(cuda_graphs)
            super().__init__(**arguments)

    monkeypatch.setattr(baselines, "SwinTransformer", Ours)
    record = measure_backbone(replace(tiny(64), cuda_graphs=1), {"mmdet": "3.3.0"}, RUN)
    assert record["settings"]["cuda_graphs"] == 1
    assert set(asked) == {0, 1}  # the roofline is counted without them
    assert [one["name"] for one in record["models"]] == ["ours", "mmdet"]


def test_all_models_are_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(type(self).__module__))
    build_models(replace(tiny(64), compile=True), ["mmdet"], CPU)
    assert [name.split(".")[0] for name in compiled] == ["swin_dense", "mmdet"]


def test_outputs_of_an_earlier_image_are_detected():
    class Stale(nn.Module):
        """Without gradients, always returns the feature maps of the first image."""

        def __init__(self, body):
            super().__init__()
            self.body, self.first = body, None

        def forward(self, x):
            if torch.is_grad_enabled():
                return self.body(x)
            self.first = self.first or self.body(x)
            return self.first

    ours = baselines.build_ours(tiny(64)).eval()
    models = {OURS: ours, "mmdet": Stale(ours)}
    assert differences(models, RUN.image((64, 64)), RUN)["mmdet"] > 0.1


@pytest.mark.parametrize("with_cp", [False, True])
def test_memory_per_image_is_the_increase(with_cp):
    # The increase excludes what is kept once for all images.
    spec = tiny(96)
    found = {}
    for batch in (1, 3):
        run = replace(RUN, batch=batch, dtype="bf16")
        record = measure_memory({"tiny": spec}, "3.3.0", run)
        found[batch] = next(one for one in record["models"] if one["with_cp"] == with_cp)
    for name in ("ours", "mmdet"):
        assert found[1][name]["image_mb"] == pytest.approx(found[3][name]["image_mb"], rel=0.05)
        assert found[1][name]["once_mb"] == found[3][name]["once_mb"]


def test_checkpointing_keeps_less():
    record = measure_memory({"tiny": tiny(64)}, "3.3.0", replace(RUN, batch=2))
    plain, recomputed = record["models"]
    for name in ("ours", "mmdet"):
        assert recomputed[name]["image_mb"] < plain[name]["image_mb"]
    assert record["settings"]["arch"] == "tiny"


def test_record_of_scaling():
    record = measure_scaling(tiny(32), {}, RUN, [32, 64, 96], ["forward", "training"])
    (ours,) = record["models"]
    assert record["settings"]["sides"] == [32, 64, 96]
    assert len(ours["training"]["sizes"]) == 3
    assert isinstance(ours["forward"]["exponent"], float)


def test_scaling_against_all_baselines():
    for module in MODULES.values():
        pytest.importorskip(module)
    versions = dict.fromkeys(MODULES, "1")
    record = measure_scaling(tiny(64), versions, RUN, [128, 160], ["forward", "training"])
    assert record["failed"] == {}
    assert [one["name"] for one in record["models"]] == [OURS, *MODULES]
    for one in record["models"]:
        for phase in ("forward", "training"):
            ratios = [size["times_ours"] for size in one[phase]["sizes"]]
            assert all(ratio == 1 if one["name"] == OURS else ratio > 0 for ratio in ratios)


class Failing(nn.Module):
    """Our backbone, until it is trained."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x):
        if self.training:
            raise RuntimeError("no kernel for this\nand a long explanation")
        return self.body(x)


@pytest.mark.parametrize("measure", ["backbone", "scaling"])
def test_baselines_that_raise_are_skipped(measure, monkeypatch):
    def cannot_be_built(spec, state):
        raise TypeError("unexpected keyword argument 'embed_dim'")

    monkeypatch.setitem(BASELINES, "hf", (cannot_be_built, "transformers"))
    monkeypatch.setitem(
        BASELINES, "timm", (lambda spec, _: Failing(baselines.build_ours(spec)), "timm")
    )
    versions = {"timm": "1", "hf": "4", "mmdet": "3.3.0"}
    if measure == "backbone":
        record = measure_backbone(tiny(64), versions, RUN)
    else:
        record = measure_scaling(tiny(64), versions, RUN, [64, 96], ["forward", "training"])
    assert [one["name"] for one in record["models"]] == [OURS, "mmdet"]
    assert record["failed"] == {
        "hf": "TypeError: unexpected keyword argument 'embed_dim'",
        "timm": "RuntimeError: no kernel for this",
    }


def test_errors_of_ours_are_raised(monkeypatch):
    def build(spec, names, device):
        return {OURS: Failing(baselines.build_ours(spec)).eval()}

    monkeypatch.setattr(backbone, "build_models", build)
    with pytest.raises(RuntimeError, match="no kernel for this"):
        measure_backbone(tiny(64), {}, RUN)


def test_ours_in_float32_beside_bf16():
    # Of smaller images, copies of the weights in bf16 outweigh what their maps save.
    record = measure_backbone(tiny(192), {}, replace(RUN, dtype="bf16"), fp32=True)
    ours, fp32 = record["models"]
    assert (ours["name"], fp32["name"]) == (OURS, baselines.OURS_FP32)
    assert fp32["training"]["memory_mb"] > ours["training"]["memory_mb"]
    assert fp32["forward"]["launches"] < ours["forward"]["launches"]  # no casts
    ratio = fp32["forward"]["median_ms"] / ours["forward"]["median_ms"]
    assert fp32["forward"]["times_ours"] == pytest.approx(ratio, rel=1e-2)
    assert record["settings"]["fp32"]
    plain = measure_backbone(tiny(64), {}, RUN)
    assert "fp32" not in plain["settings"]


def test_images_too_small_for_timm_raise():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=r"timm needs images of more than \d+ pixels for windows"):
        check_agreement(tiny(32), ["timm"], RUN)


def test_unknown_names_raise():
    with pytest.raises(UserError, match="unknown --arch 'huge': choose one of tiny"):
        Spec.of_arch("huge", 7, (64, 64))
    with pytest.raises(UserError, match="unknown baseline 'jax' in --against: choose from mmdet"):
        baselines.parse_baselines("mmdet,jax", tiny(32))
    assert baselines.parse_baselines(" timm, mmdet,timm,", tiny(32)) == ["timm", "mmdet"]
    assert baselines.parse_baselines("", tiny(32)) == []
