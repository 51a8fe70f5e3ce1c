"""tools/train.py and tools/test.py on a one-stage detector whose head has the mask branch."""

import json
from pathlib import Path

import numpy as np
import pytest

CONFIG = Path(__file__).with_name("tiny_mask_reppoints.py")


def newest(work_dir: Path, pattern: str) -> Path:
    return max(work_dir.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def work_dir(tool, shapes_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mask_reppoints")
    flags = ["--data-root", shapes_root, "--work-dir", folder, "--from-scratch", "--seed", 0]
    assert tool("train", CONFIG, *flags) == 0
    return folder


def test_masks_are_trained_and_evaluated(work_dir, tool, shapes_root, tmp_path):
    losses = [
        json.loads(line)
        for line in newest(work_dir, "*/vis_data/scalars.json").read_text().splitlines()
        if "loss_mask_2" in line
    ]
    assert losses
    assert np.isfinite([step["loss"] for step in losses]).all()
    checkpoint = work_dir / Path((work_dir / "last_checkpoint").read_text()).name
    flags = ["--data-root", shapes_root, "--work-dir", tmp_path]
    assert tool("test", CONFIG, checkpoint, *flags) == 0
    found = [
        json.loads(newest(folder, "*/metrics.json").read_text())[-1]["metrics"]
        for folder in (work_dir, tmp_path)
    ]
    assert found[0] == found[1]
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= set(found[0])


def test_tta_merges_the_boxes(work_dir, tool, shapes_root, tmp_path, capsys):
    checkpoint = work_dir / Path((work_dir / "last_checkpoint").read_text()).name
    flags = ["--data-root", shapes_root, "--work-dir", tmp_path, "--tta"]
    assert tool("test", CONFIG, checkpoint, *flags) == 0
    assert "only the boxes" in capsys.readouterr().out
    (found,) = json.loads(newest(tmp_path, "*/metrics.json").read_text())
    assert {key.split("_")[0] for key in found["metrics"]} == {"coco/bbox"}


def test_own_data_without_masks(tool, shapes_root, tmp_path):
    config = tmp_path / "own.py"
    root = shapes_root.as_posix()
    config.write_text(
        f"_base_ = {CONFIG.as_posix()!r}\n"
        f"own_data = dict(root={root!r}, masks=False,\n"
        "    train=dict(ann_file='annotations/instances_train2017.json', img_dir='train2017'),\n"
        "    val=dict(ann_file='annotations/instances_val2017.json', img_dir='val2017'))\n"
    )
    flags = ["--work-dir", tmp_path / "run", "--from-scratch"]
    assert tool("train", config, *flags) == 0
    (found,) = json.loads(newest(tmp_path, "run/*/metrics.json").read_text())
    assert {key.split("_")[0] for key in found["metrics"]} == {"coco/bbox"}
