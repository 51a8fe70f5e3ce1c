"""``tools/benchmark.py``: records, tables, plots, the document, and user errors."""

import io
import json

import pytest
import torch
from rich.console import Console

from swin_dense.backbones import swin, swin_args
from swin_dense.benchmarks import detector
from swin_dense.benchmarks.baselines import BASELINES
from swin_dense.benchmarks.records import circumstances, read
from swin_dense.benchmarks.report import (
    benchmarks_document,
    file_name,
    notes_of,
    rows_of,
    terminal_table,
    title_of,
)
from swin_dense.errors import UserError


@pytest.fixture
def run(benchmark_tool, monkeypatch):
    """Runs the tool with very small sizes for "tiny"; returns its exit status."""
    monkeypatch.setitem(swin_args.ARCHS, "tiny", (8, (1, 1, 2, 1), (1, 2, 2, 4)))
    return lambda *args: benchmark_tool.main([str(arg) for arg in args])


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
    # Four stages and three mergings, in both phases.
    assert len(blocks) == 14
    assert blocks[-1]["what"] == "SwinBlock of 64 channels, float32, training"
    assert [one["left_out"] for race in blocks for one in race["candidates"]].count(None) == 60
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


def test_defaults_of_a_segmentor(benchmark_tool, repo):
    parse = benchmark_tool.make_parser().parse_args
    found = {}
    for name in ("cascade_swin_t_coco", "upernet_swin_t_ade20k"):
        args = parse(["detector", str(repo / "configs" / f"{name}.py")])
        args.cfg = benchmark_tool.load_config(args.config, None, from_scratch=True)
        benchmark_tool._fill_in(args, torch.device("cuda"))
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


def test_document_is_up_to_date(repo):
    paths = sorted((repo / "docs" / "benchmarks").glob("*.json"))
    pictures = [path.with_suffix(".png") for path in paths]
    plots = {i: f"benchmarks/{p.name}" for i, p in enumerate(pictures) if p.is_file()}
    text = benchmarks_document([read(p) for p in paths], "tools/benchmark.py report", plots)
    assert (repo / "docs" / "benchmarks.md").read_text(encoding="utf-8") == text


def record_of_a_gpu(speedup: float, date: str, machine: str = "a GPU", **settings) -> dict:
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
    usual = {"arch": "tiny", "window_size": 7, "size": [800, 1344], "batch": 16, "dtype": "bf16"}
    return {
        "kind": "backbone",
        "command": "tools/benchmark.py backbone",
        "date": date,
        "machine": {"device": "cuda", "name": machine},
        "versions": "some",
        "settings": usual | settings,
        "models": [ours, mmdet],
    }


def targets(*records: dict) -> list[str]:
    """Lines of the document's table of targets, without the outer bars."""
    text = benchmarks_document(records, "tools/benchmark.py report", {})
    return [
        line[2:-2] for line in text.splitlines() if line.startswith(("| Hopper", "| CPU", "| k"))
    ]


def test_targets_use_the_latest_matching_record():
    lines = targets(record_of_a_gpu(2.5, "2030-01-02"), record_of_a_gpu(2.0, "2030-01-01"))
    case = "Hopper, bf16, 800x1344, tiny, batch 16"
    assert f"{case}, forward | 2.7x | 4x | 2.50x | a GPU" in lines
    assert f"{case}, training memory | at most 0.5x | at most 0.35x | 0.30x | a GPU" in lines
    other = "Hopper, bf16, 800x1344, small, batch 16"
    assert f"{other}, forward | 2.7x | 4x | not measured | " in lines
    assert len([line for line in lines if "not measured" in line]) == len(lines) - 3


def test_targets_have_a_row_per_machine():
    records = [
        record_of_a_gpu(2.5, "2030-01-01", "NVIDIA H200"),
        record_of_a_gpu(2.0, "2030-01-02", "NVIDIA H100"),
    ]
    case = "Hopper, bf16, 800x1344, tiny, batch 16, forward | 2.7x | 4x"
    assert [line for line in targets(*records) if line.startswith(case)] == [
        f"{case} | 2.00x | NVIDIA H100",
        f"{case} | 2.50x | NVIDIA H200",
    ]


def test_cuda_graphs_and_compilation_are_distinguished():
    graphs = record_of_a_gpu(4.5, "2030-01-02", batch=1, cuda_graphs=1)
    other = record_of_a_gpu(8.0, "2030-01-04", batch=1, attn_impl="reference")
    compiled = record_of_a_gpu(9.0, "2030-01-03", batch=1, compile=True)
    eager = record_of_a_gpu(2.5, "2030-01-01", batch=1, cuda_graphs=0)
    lines = targets(eager, graphs, compiled, other)
    case = "Hopper, bf16, 800x1344, tiny, batch 1"
    assert f"{case}, forward | 2.5x | 3.5x | 2.50x | a GPU" in lines
    assert f"{case}, CUDA graphs, forward | 4x | 6x | 4.50x | a GPU" in lines
    assert title_of(graphs) == "backbone: tiny, 800x1344, batch 1, CUDA graphs, bf16"
    assert title_of(compiled) == "backbone: tiny, 800x1344, batch 1, compiled, bf16"
    assert file_name(graphs) == "backbone_tiny_800x1344_batch_1_cuda_graphs_bf16_cuda"


def test_target_of_bf16_is_against_ours_in_fp32():
    machine = {"device": "cpu", "name": "a CPU", "threads": 2}
    record = record_of_a_gpu(1.4, "2030-01-01") | {"machine": machine}
    record["settings"] |= {"size": [480, 640], "batch": 1, "fp32": True}
    lines = targets(record)
    case = "CPU with AMX or AVX512-BF16, bf16, 480x640, tiny, forward, against ours in fp32 | 1.6x"
    assert f"{case} |  | not measured | " in lines
    ours = record["models"][0]
    forward = ours["forward"] | {"times_ours": 1.89}
    record["models"].append(ours | {"name": "ours fp32", "forward": forward})
    assert f"{case} |  | 1.89x | a CPU, 2 threads" in targets(record)


def test_notes_of_scaling_name_the_closest_and_the_skipped():
    def model(name, *ratios):
        sizes = [
            {"median_ms": 1.0, "quartiles_ms": [1.0, 1.0], "times_ours": ratio} for ratio in ratios
        ]
        return {"name": name, "forward": {"exponent": 1.0, "sizes": sizes}}

    record = {
        "kind": "scaling",
        "machine": {"device": "cpu"},
        "settings": {"sides": [224, 512], "dtype": "fp32"},
        "models": [model("ours", 1, 1), model("timm", 1.3, 1.17), model("hf", 1.2, 1.4)],
        "failed": {"mmdet": "TypeError: no"},
    }
    closest = "The others take at least 1.17 times as long as ours in forward (timm, 512x512)."
    assert closest in notes_of(record)
    assert "mmdet was skipped: TypeError: no." in notes_of(record)


def test_targets_for_memory_and_exponent():
    machine = {"device": "cpu", "name": "AMD EPYC", "threads": 2}
    common = {"command": "", "date": "2030-01-01", "machine": machine, "versions": "some"}
    kept = {"image_mb": 490.0, "once_mb": 50.0}
    row = {"arch": "tiny", "with_cp": False, "ours": kept, "mmdet": kept}
    memory = common | {
        "kind": "memory",
        "settings": {"arch": "tiny", "size": [800, 1344], "batch": 2, "dtype": "bf16"},
        "baseline": {"name": "mmdet", "version": "3.3.0"},
        "models": [row | {"with_cp": True, "ours": kept | {"image_mb": 60.0}}, row],
    }
    lines = targets(memory)
    case = "kept for backward, bf16, 800x1344"
    assert f"{case}, tiny, per image | at most 481 MB |  | 490 MB | AMD EPYC, 2 threads" in lines
    assert f"{case}, small, per image | at most 871 MB |  | not measured | " in lines
    found = []
    for sides in ([512, 1024, 2048], [512, 1024]):
        sizes = [{"median_ms": 1.0, "quartiles_ms": [1.0, 1.0]}] * len(sides)
        ours = {"name": "ours", "forward": {"exponent": 1.042, "sizes": sizes}}
        settings = {"arch": "tiny", "size": None, "sides": sides, "batch": 1, "dtype": "fp32"}
        record = common | {"kind": "scaling", "settings": settings, "models": [ours]}
        text = benchmarks_document([record], "tools/benchmark.py report", {})
        found += [line for line in text.splitlines() if line.startswith("| exponent of time")]
    case = (
        "| exponent of time against pixels, 512x512 to 2048x2048, tiny, forward | at most 1.05 | "
    )
    assert found == [f"{case} | 1.04 | AMD EPYC, 2 threads |", f"{case} | not measured |  |"]


def wide_records() -> list[dict]:
    """Records with all baselines, long names and many digits."""
    names = ["ours", "mmdet 3.3.0", "timm 1.0.31", "hf 4.57.6", "torchvision 0.26.0"]
    step = {"median_ms": 22222.2, "quartiles_ms": [11111.1, 33333.3], "times_ours": 10.0}
    step |= {"launches": 12345, "roofline_share": 0.999, "memory_mb": 12345.0}
    scaling = {"exponent": 1.042, "sizes": [step] * 7}
    settings = {"arch": "large", "sides": [512, 768, 1024, 1280, 1536, 1792, 2048]}
    common = {"machine": {"device": "cuda", "name": "a GPU"}, "settings": settings}
    compared = {
        kind: [{"name": n, "forward": one, "training": one, "difference": 1e-7} for n in names]
        for kind, one in {"backbone": step, "scaling": scaling, "detector": step}.items()
    }
    kept = {"image_mb": 12345.0, "once_mb": 12345.0}
    models = [{"arch": "large", "with_cp": True, "ours": kept, "mmdet": kept}]
    memory = {"kind": "memory", "baseline": {"name": "mmdet", "version": "3.3.0"}, "models": models}
    packages = dict.fromkeys(("swin_dense", "mmdet", "mmcv", "mmengine"), 1234)
    waits = {"name": "mask_reppoints_v2_swin_t_coco", "waits": packages, "lines": []}
    return [
        *(common | {"kind": kind, "models": ones} for kind, ones in compared.items()),
        common | memory,
        common | {"kind": "waits", "models": [waits]},
    ]


@pytest.mark.parametrize("record", wide_records(), ids=lambda record: record["kind"])
def test_tables_fit_80_columns(record):
    text = io.StringIO()
    Console(file=text, width=80).print(terminal_table(record))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = {word for row in rows_of(record) for cell in row for word in cell.split()}
    assert words <= set(text.getvalue().split())  # none is truncated


@pytest.mark.parametrize(
    ("record", "message"),
    [({"kind": "swim"}, "is no record"), ({"kind": "backbone"}, "of an earlier version")],
)
def test_files_that_are_no_records(tmp_path, record, message):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        read(path)


def test_recorded_commands_have_no_local_paths():
    command = ["pipeline", "/home/someone/configs/a.py", "--data-root", "/data/coco"]
    command += ["--json", "/home/someone/a.json", "--remark=busy", "--rounds", "3"]
    found = circumstances(torch.device("cpu"), command, None)
    assert found["command"] == "tools/benchmark.py pipeline a.py --data-root coco --rounds 3"


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
