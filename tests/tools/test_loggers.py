"""``--tensorboard`` and ``--wandb``: what their files have, where they are installed."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def logged(work_dir: Path) -> list[dict]:
    """What the run's own file has."""
    (path,) = work_dir.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def training(tool, shapes_root, tmp_path, monkeypatch):
    """Trains, with a flag, in a folder that has a Python file; returns the work dir."""

    def run(flag: str) -> Path:
        monkeypatch.chdir(tmp_path)
        Path("private.py").write_text("key = 1")
        flags = ["--data-root", shapes_root, "--work-dir", "w", "--from-scratch", "--seed", 0]
        every = ["--cfg-options", "train_cfg.val_interval=2"]
        assert tool("train", HERE / "tiny_segmentor.py", *flags, flag, *every) == 0
        return tmp_path / "w"

    return run


def test_tensorboard(training):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    work_dir = training("--tensorboard")
    (path,) = work_dir.glob("*/vis_data")
    read = events.EventAccumulator(str(path)).Reload()
    lines = logged(work_dir)
    steps = [1, 2, 3, 4]
    for name, at in {"loss": steps, "decode.loss_ce": steps, "lr": steps, "mIoU": [2, 4]}.items():
        expected = [pytest.approx(one[name]) for one in lines if name in one]
        found = [(event.step, event.value) for event in read.Scalars(name)]
        assert found == list(zip(at, expected, strict=True))
    assert "config/text_summary" in read.Tags()["tensors"]


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a run that was not uploaded, a file in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, content = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:  # the rest of a block
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        content += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(content)
            content = b""


def test_wandb(training, monkeypatch):
    """Evaluations have the iteration too, and no code is uploaded."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    work_dir = training("--wandb")
    (path,) = work_dir.glob("*/vis_data/wandb/offline-*/*.wandb")
    records = list(wandb_records(path))
    assert not [one.artifact for one in records if one.HasField("artifact")]
    keys = {one.key for r in records if r.HasField("config") for one in r.config.update}
    assert {"model", "train_dataloader", "optim_wrapper"} <= keys
    rows = [
        {(item.key or item.nested_key[0]): float(item.value_json) for item in r.history.item}
        for r in records
        if r.HasField("history")
    ]
    for name in ("loss", "lr", "mIoU"):
        expected = [(one["step"], one[name]) for one in logged(work_dir) if name in one]
        found = [(row["iter"], row[name]) for row in rows if name in row]
        assert found == [(step, pytest.approx(value)) for step, value in expected]
