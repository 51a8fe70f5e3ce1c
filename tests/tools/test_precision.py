"""``tools/train.py --amp``: real trainings on a CPU in bfloat16, and what resumes them."""

import json
import shutil
from pathlib import Path

import torch

from swin_dense.checkpoints import load_checkpoint


def losses(work_dir: Path) -> list[float]:
    """Of every step that was logged, oldest first."""
    logs = sorted(work_dir.glob("*/vis_data/scalars.json"))
    records = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def newest(work_dir: Path) -> dict:
    return load_checkpoint(work_dir / "last.pth")


def test_mixed_precision_on_a_cpu_and_resuming_it(trained, tool, tmp_path, capsys):
    """The resumed run needs no flag, and has the steps that one longer run would have."""
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path, "--seed", 0]
    assert tool("train", "--amp", trained.config, *flags, "--from-scratch") == 0
    assert "in bf16 (autocast, without loss scaling) on cpu" in capsys.readouterr().out
    first = losses(tmp_path)
    in_fp32 = losses(trained.work_dir)
    assert first != in_fp32
    # Rounding exchanges boxes that a detector trains on.
    tolerance = 0.2 if trained.kind == "detector" else 1e-3
    torch.testing.assert_close(first, in_fp32, rtol=tolerance, atol=0)
    checkpoint = newest(tmp_path)
    assert checkpoint["meta"]["precision"] == "bf16"
    assert "loss_scaler" not in checkpoint["optimizer"]
    assert {x.dtype for x in checkpoint["state_dict"].values()} <= {torch.float32, torch.int64}
    longer = ["train_cfg.max_epochs=2"] if trained.kind == "detector" else ["train_cfg.max_iters=8"]
    assert tool("train", trained.config, *flags, "--resume", "--cfg-options", *longer) == 0
    assert "in bf16 (autocast, without loss scaling) on cpu" in capsys.readouterr().out
    assert len(losses(tmp_path)) == 2 * len(first)
    assert newest(tmp_path)["meta"]["precision"] == "bf16"


def test_a_float32_run_resumed_in_bf16_and_back(trained, tool, tmp_path, capsys):
    """Also from a checkpoint with a loss scaler, whose state is left out."""
    shutil.copytree(trained.work_dir, tmp_path, dirs_exist_ok=True)
    checkpoint = tmp_path / trained.checkpoint.name
    (tmp_path / "last_checkpoint").write_text(str(checkpoint))
    assert newest(tmp_path)["meta"]["precision"] == "fp32"
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path, "--resume"]
    key = "train_cfg.max_epochs" if trained.kind == "detector" else "train_cfg.max_iters"
    part = 1 if trained.kind == "detector" else 4
    options = ["--cfg-options", f"{key}={2 * part}"]
    assert tool("train", trained.config, *flags, checkpoint, "--amp", *options) == 0
    out = capsys.readouterr().out
    assert "the checkpoint was trained in fp32, this run continues in bf16" in out
    content = newest(tmp_path)
    content["optimizer"]["loss_scaler"] = {"scale": 2.0**16}
    content["meta"]["precision"] = "fp16"
    torch.save(content, tmp_path / "scaled.pth")
    options = ["--cfg-options", f"{key}={3 * part}"]
    scaled = tmp_path / "scaled.pth"
    assert tool("train", trained.config, *flags, scaled, "--amp", "fp32", *options) == 0
    out = capsys.readouterr().out
    assert "the checkpoint was trained in fp16, this run continues in fp32" in out
    assert "in float32 on cpu" in out
    assert newest(tmp_path)["meta"]["precision"] == "fp32"
