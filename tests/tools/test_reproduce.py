"""``tools/reproduce.py`` as a user calls it, on few rows."""

import functools
import json
import re
from pathlib import Path

import pytest
import torch

from swin_dense.analysis import Counts, ablation, evaluation
from swin_dense.analysis.ablation import ATTENTIONS, VARIANTS, Variant
from swin_dense.analysis.evaluation import (
    evaluate_row,
    frames_per_second,
    missing_for_evaluation,
    published_scores,
    released_weights,
    scores_table,
)
from swin_dense.analysis.paper import ROWS, WEIGHTS, Row
from swin_dense.commands import reproduce as command

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
KEYS = {
    *("table", "method", "backbone", "config", "crop"),
    *("params_m", "paper_params_m", "flops_g", "paper_flops_g"),
}


@pytest.fixture
def reproduce(tool, tmp_path, monkeypatch):
    """Runs the tool in an empty folder, without weights and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return functools.partial(tool, "reproduce")


def test_all_rows_as_json_and_markdown(reproduce, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "ROWS", [r for r in ROWS if "atss" in r.config])
    assert reproduce("--json", tmp_path / "rows.json", "--markdown", "rows.md") == 0
    entries = json.loads((tmp_path / "rows.json").read_text())
    assert [(e["table"], e["method"], e["backbone"]) for e in entries] == [
        ("table_2a", "ATSS", "R-50"),
        ("table_2a", "ATSS", "Swin-T"),
    ]
    for entry in entries:
        assert set(entry) >= KEYS
        assert entry["params_m"] == pytest.approx(entry["paper_params_m"], rel=0.01)
        assert entry["flops_g"] == pytest.approx(entry["paper_flops_g"], rel=0.01)
    text = (tmp_path / "rows.md").read_text()
    assert f"`tools/reproduce.py --json {tmp_path / 'rows.json'} --markdown rows.md`" in text
    assert "configs/atss_swin_t_coco.py)" in text
    assert "atss_r50" in capsys.readouterr().out


def test_row_without_weights_and_data(reproduce, tmp_path, capsys):
    assert reproduce("--row", "atss_r50", "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert "32.3" in out
    assert "FPS: not measured" in out
    assert "train them with tools/train.py configs/atss_r50_coco.py" in out
    assert "no data root data/coco/" in out


def test_missing_weights_and_data_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    row = next(row for row in ROWS if row.config == "cascade_swin_t_coco")
    assert released_weights(row) is None
    weights, data = missing_for_evaluation(row, CONFIGS, None, tmp_path)
    file = tmp_path / "checkpoints" / "cascade_mask_rcnn_swin_tiny_patch4_window7.pth"
    assert f"download {WEIGHTS[row.config]} to {file}" in weights
    assert str(tmp_path / "annotations") in data
    file.parent.mkdir()
    file.touch()
    assert released_weights(row) == file
    assert missing_for_evaluation(row, CONFIGS, file, tmp_path) == [data]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--row", "atss_r5"], "no row 'atss_r5'; did you mean atss_r50"),
        (["--tta"], "add --row"),
        (["--row", "atss_r50", "--checkpoint", "none.pth"], "no such checkpoint: none.pth"),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_user_errors(reproduce, capsys, args, message):
    assert reproduce(*args) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_ablation(reproduce, tmp_path, monkeypatch, capsys):
    counts = Counts(10**6, 10**9, (512, 2048), {}, {}, {})
    variants = [Variant(name, "upernet_swin_t_ade20k", counts) for name in (*VARIANTS, *ATTENTIONS)]
    monkeypatch.setattr(command, "ROWS", [])
    monkeypatch.setattr(command, "count_variants", lambda configs: variants)
    monkeypatch.setattr(
        command,
        "measure_stages",
        lambda device, batch: ablation.measure_stages(device, batch=1, seconds=0.001, rounds=2),
    )
    flags = ["--json", "a.json", "--markdown", "a.md", "--device", "cpu"]
    assert reproduce("--ablation", *flags) == 0
    entries = json.loads((tmp_path / "a.json").read_text())
    tables = {"table_4_ablation_swin_t": 7, "table_6_attention_swin_t": 2, "table_5_speed_v100": 6}
    assert [e["table"] for e in entries] == [name for name, n in tables.items() for _ in range(n)]
    assert all(set(e) >= KEYS for e in entries)
    text = (tmp_path / "a.md").read_text()
    assert "| w/o shifting | `model.backbone.use_shift=False` |" in text
    assert "| shifted window (padding) |" in text
    assert "| sliding window | `model.backbone.attention=sliding` |" in text
    assert "| Performer: not specified, not built | - | - | - | - | 4.8 |" in text
    assert "| not built | Performer |  | - | - | ImageNet top-1 79.0, top-5 94.2 |" in text
    assert re.search(r"one thread, batch 4, 20\d\d-", text)
    assert "model.backbone.use_abs_pos_embed=True" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def tiny_row(trained) -> Row:
    scores = {"miou": 60.0, "miou_single": 50.0} if trained.kind == "segmentor" else {"box": 40.0}
    return Row("not_published", "", "", trained.config.stem, 1, 1, **scores)


def test_row_with_weights_and_data_is_tested(reproduce, trained, tiny_row, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_rows", lambda name, configs: [tiny_row])
    monkeypatch.setattr(command, "CONFIGS", trained.config.parent)
    flags = ["--data-root", trained.data_root, "--device", "cpu", "--json", "row.json"]
    assert reproduce("--row", "tiny", "--checkpoint", trained.checkpoint, *flags) == 0
    (entry,) = json.loads(Path("row.json").read_text())
    measured = entry["measured_scores"]
    expected = ["mIoU"] if trained.kind == "segmentor" else ["box AP", "mask AP"]
    assert list(measured) == expected
    assert all(-100 <= score <= 100 for score in measured.values())
    assert "percent" in capsys.readouterr().out
    table = scores_table([tiny_row], measured, tta=False)
    published = {"mIoU": "50.0", "box AP": "40.0"}
    assert list(table.columns[2].cells) == [published.get(name, "-") for name in expected]


def test_scores_are_compared_with_and_without_tta():
    single, several = (r for r in ROWS if r.config == "htc_pp_swin_l_coco")
    assert published_scores(single, tta=False) == {"box AP": 57.1, "mask AP": 49.5}
    assert published_scores(single, tta=True) == {}
    assert published_scores(several, tta=True) == {"box AP": 58.0, "mask AP": 50.4}
    upernet = next(r for r in ROWS if r.config == "upernet_swin_t_ade20k")
    assert published_scores(upernet, tta=False) == {"mIoU": 44.51}
    assert published_scores(upernet, tta=True) == {"mIoU": 46.1}


def test_metrics_are_in_percent(monkeypatch, trained, tiny_row):
    metrics = {"coco/bbox_mAP": 0.505, "mIoU": 44.5, "aAcc": 80.0}
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: metrics)
    scores = evaluate_row(tiny_row, trained.config.parent, trained.checkpoint)
    assert scores == {"box AP": pytest.approx(50.5), "mIoU": 44.5}


@pytest.mark.filterwarnings("ignore")  # mmseg's warnings about options of losses
def test_speed_of_a_model(trained):
    fps = frames_per_second(
        trained.config, (64, 96), torch.device("cpu"), trained.checkpoint, seconds=0.01
    )
    assert 0 < fps < 1e5
