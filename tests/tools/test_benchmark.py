"""``tools/benchmark.py``: its commands, the records that they write, and user errors."""

import functools
import json

import pytest
import torch

from swin_dense.backbones import swin, swin_args
from swin_dense.benchmarks import detector
from swin_dense.benchmarks.baselines import BASELINES
from swin_dense.benchmarks.records import read
from swin_dense.benchmarks.report import benchmarks_document
from swin_dense.commands import benchmark as command
from swin_dense_cli.benchmark import make_parser


@pytest.fixture
def run(tool, monkeypatch):
    """Runs the tool with very small sizes for "tiny"; returns its exit status."""
    monkeypatch.setitem(swin_args.ARCHS, "tiny", (8, (1, 1, 2, 1), (1, 2, 2, 4)))
    return functools.partial(tool, "benchmark")


def test_backbone(run, tmp_path, capsys):
    path = tmp_path / "found" / "backbone.json"
    flags = ["--size", "64x96", "--rounds", 2, "--against", "mmdet", "--device", "cpu"]
    assert run("backbone", *flags, "--remark", "a remark", "--json", path) == 0
    record = json.loads(path.read_text())
    assert record["kind"] == "backbone"
    assert record["settings"]["arch"] == "tiny"
    assert record["settings"]["size"] == [64, 96]
    assert [one["name"] for one in record["models"]] == ["ours", "mmdet"]
    assert record["command"].startswith("tools/benchmark.py backbone --size 64x96 --rounds 2")
    assert str(tmp_path) not in path.read_text()
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "defaults on cpu: --batch 1 --dtype fp32" in out
    assert "mmdet" in out
    assert "Remark: a remark." in out


def test_missing_baselines_are_named_and_skipped(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BASELINES, "timm", (BASELINES["timm"][0], "no-such-distribution"))
    path = tmp_path / "backbone.json"
    flags = ["--size", "64x64", "--rounds", 1, "--against", "timm,mmdet", "--json", path]
    assert run("backbone", *flags) == 0
    record = json.loads(path.read_text())
    assert record["skipped"] == ["timm"]
    assert [one["name"] for one in record["models"]] == ["ours", "mmdet"]
    assert "timm is not installed: skipped" in capsys.readouterr().out


def test_scaling(run, tmp_path, capsys):
    path = tmp_path / "scaling.json"
    flags = ["--sizes", "32x32,64", "--rounds", 1, "--against", "", "--json", path]
    assert run("scaling", *flags) == 0
    assert json.loads(path.read_text())["settings"]["sides"] == [32, 64]
    assert path.with_suffix(".png").is_file()
    assert "exponent" in capsys.readouterr().out


def test_memory(run, tmp_path, capsys):
    path = tmp_path / "memory.json"
    assert run("memory", "--size", "64x96", "--device", "cpu", "--json", path) == 0
    record = json.loads(path.read_text())
    assert [(one["arch"], one["with_cp"]) for one in record["models"]] == [
        ("tiny", False),
        ("tiny", True),
    ]
    plain, recomputed = (one["ours"]["image_mb"] for one in record["models"])
    assert 0 <= recomputed < plain
    out = capsys.readouterr().out
    assert "--batch 1 --dtype bf16" in out
    assert "tiny, with_cp" in out
    assert "Counted on a CPU" in out


def test_tune(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SWIN_DENSE_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "tune.json"
    flags = ["--size", "64x64", "--device", "cpu", "--json", path]
    assert run("tune", *flags) == 0
    record = json.loads(path.read_text())
    products, blocks = record["races"][:2], record["races"][2:]
    assert [race["chosen"] in ("MKL", "oneDNN") for race in products] == [True, True]
    assert {race["chosen"] for race in blocks} == {None}  # of no effect on a CPU
    # Four stages, three mergings and five norms, in both phases.
    assert len(blocks) == 24
    assert blocks[-2]["what"] == "SwinBlock of 64 channels, float32, training"
    assert blocks[-1]["what"] == "MapNorm to NCHW of 64 channels, float32, training"
    assert [one["left_out"] for race in blocks for one in race["candidates"]].count(None) == 70
    assert len(list((tmp_path / "cache" / "autotune").iterdir())) == 2
    out = capsys.readouterr().out
    assert "--size 480x640" not in out
    assert "defaults on cpu: --batch 1 --dtype fp32" in out
    assert str(tmp_path / "cache" / "autotune") in out.replace("\n", "")
    assert "modules+reference" in out
    assert "oneDNN by 2 %" in benchmarks_document([record], "report", {})


def test_tune_where_nothing_may_be_measured(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SWIN_DENSE_AUTOTUNE", "0")
    assert run("tune", "--size", "64x64", "--device", "cpu", "--json", tmp_path / "a.json") == 2
    assert "nothing may be measured: SWIN_DENSE_AUTOTUNE=0" in capsys.readouterr().err


def test_defaults_of_a_segmentor(repo):
    parse = make_parser().parse_args
    found = {}
    for name in ("cascade_swin_t_coco", "upernet_swin_t_ade20k"):
        args = parse(["detector", str(repo / "configs" / f"{name}.py")])
        args.cfg = command.load_config(args.config, None, from_scratch=True)
        command._fill_in(args, torch.device("cuda"))
        found[name] = (args.size, args.batch, args.dtype)
    assert found == {
        "cascade_swin_t_coco": ("800x1344", 2, "bf16"),
        "upernet_swin_t_ade20k": ("512x512", 16, "bf16"),
    }


def test_record_names_depend_on_the_settings(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--size", "64x64", "--rounds", 1, "--against", "", "--device", "cpu"]
    assert run("backbone", *flags) == 0
    assert run("backbone", *flags, "--batch", 2) == 0
    assert sorted(path.name for path in (tmp_path / "work_dirs" / "benchmarks").glob("*.json")) == [
        "backbone_tiny_64x64_batch_1_fp32_cpu.json",
        "backbone_tiny_64x64_batch_2_fp32_cpu.json",
    ]


def test_different_outputs_raise_before_timing(run, repo, tmp_path, monkeypatch, capsys):
    forward = swin.SwinTransformer.forward
    monkeypatch.setattr(
        swin.SwinTransformer, "forward", lambda self, x: [1.01 * y for y in forward(self, x)]
    )
    monkeypatch.setattr(detector, "interleave", lambda *_, **__: pytest.fail("timed"))
    config = repo / "configs" / "upernet_swin_nano_shapes.py"
    flags = ["--size", "64x96", "--device", "cpu", "--json", tmp_path / "a.json"]
    assert run("detector", config, *flags) == 2
    assert "the feature maps of both differ by 0.01: nothing was timed" in capsys.readouterr().err


def test_boxes_need_heads_with_a_sampler(run, repo, tmp_path, capsys):
    config = repo / "configs" / "upernet_swin_nano_shapes.py"
    assert run("detector", config, "--boxes", 8, "--json", tmp_path / "a.json") == 2
    assert "--boxes: nothing in this model samples boxes" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cascade_swin_nano_shapes", "upernet_swin_nano_shapes"])
def test_detector(run, repo, tmp_path, kind, capsys):
    path = tmp_path / "detector.json"
    config = repo / "configs" / f"{kind}.py"
    assert run("detector", config, "--size", "64x96", "--rounds", 1, "--json", path) == 0
    record = json.loads(path.read_text())
    assert record["config"] == kind
    assert [one["name"] for one in record["models"]] in (["ours", "mmdet"], ["ours", "mmseg"])
    assert record["models"][1]["training"]["launches"] > 100
    assert record["models"][1]["difference"] < 1e-4
    # on a CPU, only samplers of boxes are changed, to fewer boxes
    assert record["settings"]["boxes"] == (64 if kind.startswith("cascade") else None)
    assert f"detector {kind}.py" in record["command"]  # without local folders


def test_evaluation(run, tmp_path, capsys):
    path = tmp_path / "evaluation.json"
    assert run("evaluation", "--images", 6, "--detections", 8, "--json", path) == 0
    ours, mmdet = json.loads(path.read_text())["models"]
    assert (ours["name"], mmdet["name"]) == ("ours", "mmdet")
    assert mmdet["segm"]["times_ours"] > 0
    assert not path.with_suffix(".png").exists()


def test_pipeline(run, repo, shapes_root, tmp_path, capsys):
    path = tmp_path / "pipeline.json"
    config = repo / "configs" / "cascade_swin_nano_shapes.py"
    flags = ["--data-root", shapes_root, "--images", 4, "--rounds", 1, "--json", path]
    flip = "train_dataloader.dataset.pipeline.2.prob=1.0"
    assert run("pipeline", config, *flags, "--cfg-options", flip) == 0
    record = json.loads(path.read_text())
    assert record["options"] == flip
    assert record["identical"] is True
    assert record["annotation_bytes"] < record["mmdet"]["annotation_bytes"]
    for one in (record, record["mmdet"]):
        assert one["images_per_second"] > 0
        steps = {step["name"]: step["ms_per_image"] for step in one["steps"]}
        assert set(steps) == {"LoadImageFromFile", "LoadAnnotations", "RandomFlip", "PackDetInputs"}
        assert list(steps.values()) == sorted(steps.values(), reverse=True)
    shown = capsys.readouterr().out
    assert "images/s on one core, mmdet's" in shown
    assert "times mmdet's images a second; the samples are identical" in shown


def test_pipeline_of_another_config(run, repo, shapes_root, tmp_path, capsys):
    path = tmp_path / "pipeline.json"
    names = {1: "LoadAnnotations", 2: "RandomFlip", 3: "PackDetInputs"}
    steps = [f"train_dataloader.dataset.pipeline.{i}.type={name}" for i, name in names.items()]
    flags = ["--data-root", shapes_root, "--images", 2, "--rounds", 1, "--json", path]
    config = repo / "configs" / "cascade_swin_nano_shapes.py"
    assert run("pipeline", config, *flags, "--cfg-options", *steps) == 0
    assert "mmdet" not in json.loads(path.read_text())  # its transforms are mmdet's already
    assert "images/s on one core" in capsys.readouterr().out


def test_waits(run, repo, tmp_path, capsys):
    path = tmp_path / "waits.json"
    config = repo / "tests" / "tools" / "tiny_segmentor.py"
    assert run("waits", config, "--size", "64x64", "--json", path) == 0
    (one,) = read(path)["models"]
    assert one["name"] == "tiny_segmentor"
    assert set(one["waits"]) == {"mmseg"}
    assert sum(count for *_, count in one["lines"]) == one["waits"]["mmseg"] > 0
    assert "In swin_dense: none." in capsys.readouterr().out


def test_compile(run, repo, tmp_path, capsys):
    path = tmp_path / "compile.json"
    config = repo / "tests" / "tools" / "tiny_segmentor.py"
    flags = ["--backend", "eager", "--parts", "backbone", "--json", path]
    assert run("compile", config, *flags) == 0
    (one,) = read(path)["models"]
    assert (one["name"], one["part"]) == ("tiny_segmentor", "backbone")
    assert (one["graphs"], one["breaks"]) == (1, 0)
    assert one["losses"] == pytest.approx(one["eager"], rel=1e-4)
    assert len(set(one["losses"])) == 4
    assert "loss differs" in capsys.readouterr().out
    assert run("compile", config, "--parts", "head") == 2
    assert "--parts 'head': expected backbone or step" in capsys.readouterr().err


def test_kernels(run, tmp_path, capsys):
    pytest.importorskip("triton")
    path = tmp_path / "kernels.json"
    assert run("kernels", "--only", "add C=96", "--dtype", "fp16", "--json", path) == 0
    record = json.loads(path.read_text())
    assert record["settings"]["target"] == "sm_90"
    assert [one["name"] for one in record["kernels"]] == ["add C=96"]
    assert not path.with_suffix(".png").exists()
    out = capsys.readouterr().out
    assert "compiling for sm_90" in out
    assert "kernels: sm_90, add C=96, fp16" in out
    assert "Slots: SASS instructions" in out


def test_passes(run, tmp_path, capsys):
    pytest.importorskip("triton")
    path = tmp_path / "passes.json"
    flags = ["--size", "32x32", "--batch", 1, "--attn-impl", "reference", "--against", ""]
    assert run("passes", *flags, "--list", "--json", path) == 0
    record = json.loads(path.read_text())
    assert record["kind"] == "passes"
    assert [one["attn_impl"] for one in record["models"]] == ["reference"]
    assert record["machine"]["name"] == "counted for sm_90, no GPU"
    assert "--list" not in record["command"]
    out = capsys.readouterr().out
    assert "passes: tiny, 32x32, batch 1, bf16" in out
    assert "native_layer_norm" in out
    assert "Counted, not measured" in out


def test_report_is_deterministic(run, tmp_path):
    folder = tmp_path / "benchmarks"
    common = ["--rounds", 1, "--against", "mmdet"]
    assert run("scaling", "--sizes", "32,64", *common, "--json", folder / "a.json") == 0
    assert run("backbone", "--size", "64x64", *common, "--json", folder / "b.json") == 0
    texts = []
    for order in ("ab", "ba", "ab"):
        document = tmp_path / "benchmarks.md"
        records = [folder / f"{name}.json" for name in order]
        assert run("report", *records, "--markdown", document) == 0
        first, *rest = document.read_text().splitlines()
        texts.append([line for line in (first, *rest) if "Generated" not in line])
    assert texts[0] == texts[1] == texts[2]
    text = "\n".join(texts[0])
    assert text.index("## Backbone") < text.index("## Time against pixels")
    assert "![scaling: tiny, batch 1, fp32](benchmarks/a.png)" in text
    assert "not measured" in text  # what needs a GPU


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["backbone", "--size", "800"], "--size '800': expected HEIGHTxWIDTH in pixels"),
        (["backbone", "--size", "16x64"], "--size '16x64': expected HEIGHTxWIDTH in pixels"),
        (["backbone", "--against", "jax"], "unknown baseline 'jax' in --against"),
        (["backbone", "--arch", "huge"], "unknown --arch 'huge': choose one of tiny"),
        (["backbone", "--batch", "0"], "--batch 0: expected 1 or more"),
        (["backbone", "--attn-impl", "magic"], "attn_impl"),
        (["scaling", "--sizes", "64"], "two different sizes"),
        (["scaling", "--sizes", "64", "--phases", "back"], "--phases 'back'"),
        (["backbone", "--cuda-graphs", "--device", "cpu"], "--cuda-graphs has no effect on cpu"),
        (["backbone", "--fp32", "--device", "cpu"], "--fp32 compares another precision"),
        (["memory", "--arch", "tiny,huge"], "unknown --arch 'huge': choose one of tiny"),
        (["memory", "--size", "1x1"], "--size '1x1': expected HEIGHTxWIDTH in pixels"),
        (["evaluation", "--metric", "bbox,pose"], "--metric 'pose'"),
        (["detector", "none.py"], "no such config: none.py"),
        (["kernels", "--target", "sm_91"], "unknown --target 'sm_91': choose one of sm_80"),
        (["kernels", "--rounds", "0"], "--rounds 0: expected 1 or more"),
        (["passes", "--attn-impl", "auto,magic"], "attn_impl"),
        (["passes", "--batch", "0"], "--batch 0: expected 1 or more"),
        (["report", "none.json"], "none.json cannot be read"),
    ],
)
def test_user_errors_are_one_line(run, args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*args) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_config_without_swin_raises(run, repo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("detector", repo / "configs" / "atss_r50_coco.py") == 2
    assert "model.backbone.type is 'ResNet'" in capsys.readouterr().err
