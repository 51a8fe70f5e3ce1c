"""``tools/benchmark.py``: records, tables, pictures, the document, and mistakes."""

from __future__ import annotations

import json

import pytest

from swin_dense.backbones import swin_arguments
from swin_dense.benchmarks import peers
from swin_dense.benchmarks.record import circumstances, read
from swin_dense.benchmarks.report import benchmarks_document


@pytest.fixture
def run(benchmark_tool, monkeypatch):
    """Runs the tool on a very small "tiny" model; its exit status."""
    monkeypatch.setitem(swin_arguments.ARCHS, "tiny", (8, (1, 1, 2, 1), (1, 2, 2, 4)))
    return lambda *args: benchmark_tool.main([str(arg) for arg in args])


def test_backbone(run, tmp_path, capsys):
    path = tmp_path / "found" / "backbone.json"
    flags = ["--size", "64x96", "--rounds", 2, "--against", "mmdet", "--device", "cpu"]
    assert run("backbone", *flags, "--remark", "a remark", "--json", path) == 0
    record = json.loads(path.read_text())
    assert record["kind"] == "backbone"
    assert record["settings"]["arch"] == "tiny"
    assert record["settings"]["size"] == [64, 96]
    assert [one["name"] for one in record["contestants"]] == ["ours", "mmdet"]
    assert record["command"].startswith("tools/benchmark.py backbone --size 64x96 --rounds 2")
    assert str(tmp_path) not in path.read_text()
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "defaults on cpu: --batch 1 --dtype fp32" in out
    assert "mmdet" in out
    assert "Remark: a remark." in out


def test_missing_peers_are_named_and_skipped(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(peers.PEERS, "timm", (peers.PEERS["timm"][0], "no-such-distribution"))
    path = tmp_path / "backbone.json"
    flags = ["--size", "64x64", "--rounds", 1, "--against", "timm,mmdet", "--json", path]
    assert run("backbone", *flags) == 0
    record = json.loads(path.read_text())
    assert record["skipped"] == ["timm"]
    assert [one["name"] for one in record["contestants"]] == ["ours", "mmdet"]
    assert "timm is not installed: skipped" in capsys.readouterr().out


def test_scaling(run, tmp_path, capsys):
    path = tmp_path / "scaling.json"
    flags = ["--sizes", "32x32,64", "--rounds", 1, "--against", "", "--json", path]
    assert run("scaling", *flags) == 0
    assert json.loads(path.read_text())["settings"]["sides"] == [32, 64]
    assert path.with_suffix(".png").is_file()
    assert "exponent" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["cascade_swin_nano_shapes", "upernet_swin_nano_shapes"])
def test_detector(run, repo, tmp_path, kind, capsys):
    path = tmp_path / "detector.json"
    config = repo / "configs" / f"{kind}.py"
    assert run("detector", config, "--size", "64x96", "--rounds", 1, "--json", path) == 0
    record = json.loads(path.read_text())
    assert record["config"] == kind
    assert [one["name"] for one in record["contestants"]] in (["ours", "mmdet"], ["ours", "mmseg"])
    assert record["contestants"][1]["training"]["launches"] > 100
    assert f"detector {kind}.py" in record["command"]  # without the folders of this machine


def test_evaluation(run, tmp_path, capsys):
    path = tmp_path / "evaluation.json"
    assert run("evaluation", "--images", 6, "--detections", 8, "--json", path) == 0
    ours, mmdet = json.loads(path.read_text())["contestants"]
    assert (ours["name"], mmdet["name"]) == ("ours", "mmdet")
    assert mmdet["segm"]["times_ours"] > 0
    assert not path.with_suffix(".png").exists()


def test_pipeline(run, repo, shapes_root, tmp_path, capsys):
    path = tmp_path / "pipeline.json"
    config = repo / "configs" / "cascade_swin_nano_shapes.py"
    flags = ["--data-root", shapes_root, "--images", 4, "--rounds", 1, "--json", path]
    flags += ["--cfg-options", "train_dataloader.dataset.pipeline.1.poly2mask=False"]
    assert run("pipeline", config, *flags) == 0
    record = json.loads(path.read_text())
    assert record["images_per_second"] > 0
    assert record["options"] == "train_dataloader.dataset.pipeline.1.poly2mask=False"
    steps = {step["name"]: step["ms_per_image"] for step in record["steps"]}
    assert {"LoadImageFromFile", "LoadAnnotations", "PackDetInputs"} <= set(steps)
    assert list(steps.values()) == sorted(steps.values(), reverse=True)
    assert "images/s on one core" in capsys.readouterr().out


def test_report_is_the_same_every_time(run, tmp_path):
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


def test_the_document_is_up_to_date(repo):
    paths = sorted((repo / "docs" / "benchmarks").glob("*.json"))
    pictures = [path.with_suffix(".png") for path in paths]
    plots = {i: f"benchmarks/{p.name}" for i, p in enumerate(pictures) if p.is_file()}
    text = benchmarks_document([read(p) for p in paths], "tools/benchmark.py report", plots)
    assert (repo / "docs" / "benchmarks.md").read_text(encoding="utf-8") == text


def record_of_a_gpu(speedup: float, date: str) -> dict:
    step = {"median_ms": 10.0, "quartiles_ms": [9.0, 11.0], "launches": 5, "roofline_share": 0.5}
    ours = {
        "name": "ours",
        "forward": step | {"times_ours": 1.0},
        "training": step | {"times_ours": 1.0, "memory_mb": 300.0},
    }
    mmdet = {
        "name": "mmdet",
        "forward": step | {"times_ours": speedup},
        "training": step | {"times_ours": speedup, "memory_mb": 1000.0},
    }
    settings = {"arch": "tiny", "window_size": 7, "size": [800, 1344], "batch": 16, "dtype": "bf16"}
    return {
        "kind": "backbone",
        "command": "tools/benchmark.py backbone",
        "date": date,
        "machine": {"device": "cuda", "name": "a GPU"},
        "versions": "some",
        "settings": settings,
        "contestants": [ours, mmdet],
    }


def test_goals_take_the_latest_record_that_fits():
    records = [record_of_a_gpu(2.5, "2030-01-02"), record_of_a_gpu(2.0, "2030-01-01")]
    text = benchmarks_document(records, "tools/benchmark.py report", {})
    assert "| Hopper, bf16, 800x1344, tiny, batch 16, forward | 2.7x | 4x | 2.50x |" in text
    assert (
        "| Hopper, bf16, 800x1344, tiny, batch 16, training memory | 0.5x | 0.35x | 0.30x |" in text
    )
    assert "| Hopper, bf16, 800x1344, small, batch 16, forward | 2.7x | 4x | not measured |" in text
    assert "| CPU, fp32, 480x640, tiny, forward | 1.5x | 2.7x | not measured |" in text


def test_commands_are_recorded_without_what_is_of_this_machine():
    import torch

    command = ["pipeline", "/home/someone/configs/a.py", "--data-root", "/data/coco"]
    command += ["--json", "/home/someone/a.json", "--remark=busy", "--rounds", "3"]
    found = circumstances(torch.device("cpu"), command, None)
    assert found["command"] == "tools/benchmark.py pipeline a.py --data-root coco --rounds 3"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["backbone", "--size", "800"], "--size '800': expected HEIGHTxWIDTH in pixels"),
        (["backbone", "--size", "16x64"], "--size '16x64': expected HEIGHTxWIDTH in pixels"),
        (["backbone", "--against", "jax"], "unknown peer 'jax' in --against"),
        (["backbone", "--arch", "huge"], "unknown --arch 'huge': choose one of tiny"),
        (["backbone", "--batch", "0"], "--batch 0: expected 1 or more"),
        (["backbone", "--attn-impl", "magic"], "attn_impl"),
        (["scaling", "--sizes", "64"], "two different sizes"),
        (["scaling", "--sizes", "64", "--phases", "back"], "--phases 'back'"),
        (["evaluation", "--metric", "bbox,pose"], "--metric 'pose'"),
        (["detector", "none.py"], "no such config: none.py"),
        (["report", "none.json"], "none.json cannot be read"),
    ],
)
def test_mistakes_are_one_line(run, args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*args) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_config_without_swin(run, repo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("detector", repo / "configs" / "atss_r50_coco.py") == 2
    assert "model.backbone.type is 'ResNet'" in capsys.readouterr().err
