"""``tools/train.py`` and ``tools/test.py`` on a tiny detector and a tiny segmentor."""

import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch

from swin_dense.checkpoints import load_checkpoint


def last_metrics(work_dir: Path) -> dict:
    newest = max(work_dir.glob("*/metrics.json"), key=lambda p: p.stat().st_mtime_ns)
    return json.loads(newest.read_text())[-1]["metrics"]


def losses(work_dir: Path) -> dict[int, float]:
    steps = {}
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if "loss" in record:
                steps[record["step"]] = record["loss"]
    return steps


def test_testing_gives_the_metrics_of_training(trained, tool, tmp_path, capsys):
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path]
    assert tool("test", trained.config, trained.checkpoint, *flags) == 0
    trained_to = last_metrics(trained.work_dir)
    assert trained_to
    assert last_metrics(tmp_path) == trained_to
    name = "mIoU" if trained.kind == "segmentor" else "segm"
    assert name in capsys.readouterr().out


def test_training_writes_config_log_losses_and_checkpoint(trained):
    assert (trained.work_dir / trained.config.name).is_file()
    (log,) = trained.work_dir.glob("*/*.log")
    assert "System environment" in log.read_text()
    steps = losses(trained.work_dir)
    assert list(steps) == list(range(1, len(steps) + 1))
    assert np.isfinite(list(steps.values())).all()


def test_terminal_shows_progress_and_results_but_not_the_config(tool, shapes_root, tmp_path, capfd):
    config = Path(__file__).parent / "tiny_segmentor.py"
    flags = ["--data-root", shapes_root, "--work-dir", tmp_path, "--seed", 0]
    assert tool("train", config, *flags) == 0
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert any("train 4/4" in line and "loss" in line and "left" in line for line in lines)
    assert "mIoU" in out
    assert f"checkpoint: {tmp_path / 'iter_4.pth'}" in out
    assert (tmp_path / "last.pth").resolve() == (tmp_path / "iter_4.pth").resolve()
    assert len(lines) < 25


def test_resume(trained, tool, tmp_path):
    """Step numbers continue, no step is repeated, and the weights keep changing."""
    longer = ["train_cfg.max_epochs=2"] if trained.kind == "detector" else ["train_cfg.max_iters=8"]
    flags = ["--data-root", trained.data_root, "--seed", 0, "--cfg-options", *longer]
    resumed = tmp_path / "resumed"
    shutil.copytree(trained.work_dir, resumed)
    before = losses(resumed)
    assert tool("train", trained.config, "--work-dir", resumed, "--resume", *flags) == 0
    after = losses(resumed)
    assert list(after) == list(range(1, 2 * len(before) + 1))
    newest = load_checkpoint(resumed / (resumed / "last_checkpoint").read_text())
    assert newest["meta"]["iter"] == 2 * len(before)
    first = load_checkpoint(trained.checkpoint)["state_dict"]
    assert any(not torch.equal(v, newest["state_dict"][k]) for k, v in first.items())


def test_seed_makes_runs_reproducible(trained, tool, tmp_path):
    flags = ["--data-root", trained.data_root, "--from-scratch", "--seed", 0]
    assert tool("train", trained.config, "--work-dir", tmp_path, *flags) == 0
    assert losses(tmp_path) == losses(trained.work_dir)


def test_predictions_and_drawings_are_written(trained, tool, tmp_path):
    out, show = tmp_path / "kept" / "predictions.pkl", tmp_path / "pictures"
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path]
    flags += ["--out", out, "--show-dir", show, "--score-thr", 0.0]
    assert tool("test", trained.config, trained.checkpoint, *flags) == 0
    kept = pickle.loads(out.read_bytes())
    images = sorted((trained.data_root / "val2017").glob("*.jpg"))
    assert len(kept) == len(images)
    assert all(("pred_instances" in k) or ("label_map" in k) for k in kept)
    pictures = sorted(show.iterdir())
    assert [p.stem for p in pictures] == [p.stem for p in images]
    picture = cv2.imread(str(pictures[0]))  # ground truth and prediction, enlarged, with titles
    assert 384 < picture.shape[0] < 420
    assert picture.shape[1] == 768
    titles = picture[: picture.shape[0] - 384]
    assert (titles[:, :384] < 128).any()
    assert (titles[:, 384:] < 128).any()


def test_label_maps_are_written_to_a_folder(tool, trained, tmp_path):
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path, "--out", tmp_path / "maps"]
    status = tool("test", trained.config, trained.checkpoint, *flags)
    if trained.kind == "detector":
        assert status == 2
        assert not (tmp_path / "maps").exists()
    else:
        assert status == 0
        assert len(list((tmp_path / "maps").glob("*.png"))) == 4


def test_tta(trained, tool, tmp_path):
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path, "--tta"]
    assert tool("test", trained.config, trained.checkpoint, *flags) == 0
    found = last_metrics(tmp_path)
    if trained.kind == "detector":
        assert {key.split("_")[0] for key in found} == {"coco/bbox", "coco/segm"}
    else:
        assert "mIoU" in found


def test_testing_does_not_change_the_training_config(trained, tool):
    before = (trained.work_dir / trained.config.name).read_text()
    flags = ["--data-root", trained.data_root, "--work-dir", trained.work_dir]
    flags += ["--cfg-options", "test_dataloader.batch_size=1"]
    assert tool("test", trained.config, trained.checkpoint, *flags) == 0
    assert (trained.work_dir / trained.config.name).read_text() == before


def test_auto_scale_lr_scales_the_learning_rate(tool, shapes_root, tmp_path):
    config = Path(__file__).parent / "tiny_detector.py"
    flags = ["--data-root", shapes_root, "--from-scratch", "--auto-scale-lr"]
    flags += ["--cfg-options", "train_cfg.val_interval=9"]
    assert tool("train", config, "--work-dir", tmp_path, *flags) == 0
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    lr = json.loads(scalars.read_text().splitlines()[0])["lr"]
    assert abs(lr - 1e-3 * 4 / 16) < 1e-9
