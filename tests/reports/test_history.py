"""The trainings of a work dir, as one."""

import json
from pathlib import Path

import numpy as np
import pytest

from swin_dense.errors import UserError
from swin_dense.reports.charts import smoothed, thinned
from swin_dense.reports.history import (
    loss_parts,
    main_metrics,
    metric_series,
    read_history,
    series,
)


def log(folder: Path, steps: range, evaluations: list[int], loss: float = 1.0) -> None:
    (folder / "vis_data").mkdir(parents=True)
    lines = [
        {"lr": 0.1, "loss": loss, "loss_cls": loss / 2, "loss_bbox": loss / 2, "step": step}
        for step in steps
    ]
    text = "\n".join([*map(json.dumps, lines), json.dumps({"coco/bbox_mAP": 0.1, "step": 1})])
    (folder / "vis_data" / "scalars.json").write_text(text + '\n{"lr": 0.1, "lo')
    metrics = [
        {"epoch": 1, "iter": at, "metrics": {"coco/bbox_mAP": at / 100, "coco/bbox_mAP_l": -1.0}}
        for at in evaluations
    ]
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_a_resumed_training_continues_the_one_before(tmp_path: Path):
    log(tmp_path / "20260101_000000", range(1, 31), [10, 20, 30])
    log(tmp_path / "20260102_000000", range(21, 41), [10, 20, 30, 40], loss=2.0)
    (tmp_path / "20260103_000000").mkdir()  # a test
    history = read_history(tmp_path)
    steps, losses = series(history.steps, "loss")
    assert steps == list(range(1, 41))
    assert losses == [1.0] * 20 + [2.0] * 20
    assert loss_parts(history.steps) == ["loss_cls", "loss_bbox"]
    assert main_metrics(history.evaluations) == ["coco/bbox_mAP"]
    assert metric_series(history.evaluations, "coco/bbox_mAP")[0] == [10, 20, 30, 40]
    assert metric_series(history.evaluations, "coco/bbox_mAP_l") == ([], [])


def test_a_training_that_starts_anew_replaces_the_one_before(tmp_path: Path):
    log(tmp_path / "20260101_000000", range(1, 31), [10, 20, 30])
    log(tmp_path / "20260102_000000", range(1, 11), [10], loss=2.0)
    history = read_history(tmp_path)
    assert series(history.steps, "loss") == (list(range(1, 11)), [2.0] * 10)
    assert [one["iter"] for one in history.evaluations] == [10]


def test_folders_without_a_training(tmp_path: Path):
    with pytest.raises(UserError, match="has no log of a training"):
        read_history(tmp_path)
    with pytest.raises(UserError, match="no such work dir"):
        read_history(tmp_path / "gone")


def test_curves():
    values = np.arange(40.0)
    assert (smoothed(values, 1) == values).all()
    assert smoothed(values, 4)[:5].tolist() == [0, 0.5, 1, 1.5, 2.5]
    assert (smoothed([3.0] * 7) == 3).all()
    assert smoothed([]).tolist() == []
    x, y = thinned(range(10_000), range(10_000))
    assert len(x) <= 600
    assert (x[0], y[-1]) == (0, 9999)
