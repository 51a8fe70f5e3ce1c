"""The document of benchmarks: targets, notes, tables; and the records that it is made of."""

import io
import json

import pytest
import torch
from rich.console import Console

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
    losses = {"losses": [1.0, 2.0], "eager": [1.0, 2.5], "graphs": 1234, "breaks": 1234}
    compiled = {"name": "mask_reppoints_v2_swin_t_coco", "part": "step"} | losses
    return [
        *(common | {"kind": kind, "models": ones} for kind, ones in compared.items()),
        common | memory,
        common | {"kind": "waits", "models": [waits]},
        common | {"kind": "compile", "models": [compiled]},
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
