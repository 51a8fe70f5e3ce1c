"""``tools/train.py`` with the flags that fit a run to the data, and what it says before a step."""

import json
from pathlib import Path

import pytest

from swin_dense.checkpoints import load_checkpoint

HERE = Path(__file__).parent
FLAGS = "--from-scratch --seed 0 --batch-size 2 --image-size 32 --freeze 1 --ema --classwise"


def metrics(work_dir: Path) -> list[dict]:
    (path,) = work_dir.glob("*/metrics.json")
    return [entry["metrics"] for entry in json.loads(path.read_text())]


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in text.splitlines()
        if "│" in line
    ]


def test_detector(tool, shapes_root, tmp_path, capfd):
    flags = [*FLAGS.split(), "--epochs", 2, "--lr", 1e-5]
    where = ["--data-root", shapes_root, "--work-dir", tmp_path]
    assert tool("train", HERE / "tiny_detector.py", *where, *flags) == 0
    out = capfd.readouterr().out
    lines = out.splitlines()
    assert "8 images for training: 4 steps x 2 epochs = 8; batch 2; learning rate 1e-05" in lines
    counts = "train: 8 images, 26 objects of 4 classes: triangle 7, star 7, circle 6, square 6"
    assert counts in lines
    assert "train: fewer than 10 objects: square 6, circle 6, star 7, triangle 7" in lines
    assert "val: 4 images, 16 objects of 4 classes" in out
    assert lines.index(counts) < next(i for i, line in enumerate(lines) if "train 1/8" in line)
    found = metrics(tmp_path)
    assert len(found) == 2
    by_kind = [found[-1][f"coco/{kind}_star_precision"] for kind in ("bbox", "segm")]
    assert ["star", *(f"{precision:.3f}" for precision in by_kind)] in rows(out)
    checkpoint = load_checkpoint(tmp_path / "epoch_2.pth")
    assert "ema_state_dict" in checkpoint


def test_segmentor_counts_epochs(tool, shapes_root, tmp_path, capfd):
    """Two epochs of 8 images in batches of 2: 8 steps; its config has 4 and evaluates after 4."""
    where = ["--data-root", shapes_root, "--work-dir", tmp_path]
    config = ["--cfg-options", "train_cfg.val_interval=2", "default_hooks.logger.interval=50"]
    flags = [*FLAGS.split(), "--epochs", 2, *config]
    assert tool("train", HERE / "tiny_segmentor.py", *where, *flags) == 0
    out = capfd.readouterr().out
    assert "8 images for training: 8 steps, each image 2 times; batch 2; learning rate 0.001" in out
    assert "train: 8 images, 5 of 5 classes in label maps: background 8, " in out
    assert "train 8/8" in out
    found = metrics(tmp_path)
    assert len(found) == 2, "as many as in the steps that the config has"
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    assert sum("decode.loss_ce" in line for line in scalars.read_text().splitlines()) == 8
    by_class = [found[-1][f"IoU_{name}"] for name in ("background", "circle", "square")]
    assert by_class[0] > 0
    assert found[-1]["mIoU"] == pytest.approx(sum(by_class) / 5, abs=0.01)  # others were not found
    assert ["background", f"{by_class[0]:.3f}", f"{found[-1]['Acc_background']:.3f}"] in rows(out)
    meta = load_checkpoint(tmp_path / "last.pth")["meta"]
    assert meta["iter"] == 8
    assert tuple(meta["test_scale"]) == (32, 32)
