"""``tools/convert_data.py``: data sets of any format become what ``own_data`` reads."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine import Config

from swin_dense.datasets.check import check_data
from swin_dense.engine.config.own_data import apply_own_data

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def fruit(tmp_path) -> Path:
    """A YOLO data set of polygons, one image for training and one for validation."""
    root = tmp_path / "fruit"
    for split in ("train", "valid"):
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True)
        cv2.imwrite(str(root / split / "images" / "a.jpg"), np.zeros((64, 96, 3), np.uint8))
        (root / split / "labels" / "a.txt").write_text("1 0.25 0.25 0.75 0.25 0.75 0.75\n")
    (root / "data.yaml").write_text("names: [fig, nut]\ntrain: train/images\nval: valid/images\n")
    return root


def config(base: str, tmp_path: Path, capfd) -> Config:
    """A config with the ``own_data`` that the tool printed."""
    text = capfd.readouterr().out
    path = tmp_path / "own.py"
    own = text[text.index("own_data = ") :]
    path.write_text(f"_base_ = [{str(CONFIGS / base)!r}]\n{own}")
    return apply_own_data(Config.fromfile(path))


@pytest.mark.parametrize("copy", [False, True])
def test_yolo(copy, tool, fruit, tmp_path, capfd):
    target = tmp_path / "coco"
    assert tool("convert_data", fruit, target, *(["--copy"] if copy else [])) == 0
    cfg = config("mask_rcnn_swin_t_1x_coco.py", tmp_path, capfd)
    assert (target / "images").is_symlink() != copy
    assert check_data(cfg, ("train", "val", "test")) == []
    assert cfg.train_dataloader.dataset.metainfo.classes == ("fig", "nut")
    assert cfg.model.roi_head.mask_head.num_classes == 2
    assert json.loads((target / "annotations/val.json").read_text())["images"][0] == {
        "id": 1,
        "file_name": "valid/images/a.jpg",
        "width": 96,
        "height": 64,
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["coco", "fruit", "own.py"]
    if copy:
        shutil.rmtree(fruit)
        assert check_data(cfg) == []


def test_coco_again_with_classes_in_another_order(tool, fruit, tmp_path, capfd):
    """What was converted is recognised, and with its data.yaml alone."""
    assert tool("convert_data", fruit / "data.yaml", tmp_path / "one") == 0
    assert tool("convert_data", tmp_path / "one", tmp_path / "two", "--classes", "nut", "fig") == 0
    assert "one is a COCO data set: 1 train, 1 val images, 2 objects" in capfd.readouterr().out
    for split in ("train", "val"):
        first, second = (
            json.loads((tmp_path / name / f"annotations/{split}.json").read_text())
            for name in ("one", "two")
        )
        assert [c["name"] for c in second["categories"]] == ["nut", "fig"]
        assert first["images"] == second["images"]
        assert first["annotations"] == second["annotations"]


def test_label_maps(tool, tmp_path, capfd):
    root = tmp_path / "roads"
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :48] = (0, 64, 128)
    for place in ("train/a", "train/b", "val/c"):
        for folder in ("images", "masks"):
            path = root / folder / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    (root / "class_dict.csv").write_text("name,r,g,b\nroad,0,0,0\ncar,128,64,0\n")
    assert tool("convert_data", root, tmp_path / "maps") == 0
    cfg = config("upernet_swin_t_ade20k.py", tmp_path, capfd)
    assert check_data(cfg, ("train", "val", "test")) == []
    found = cv2.imread(str(tmp_path / "maps/label_maps/val/c.png.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, pixels[..., 2] == 128)


def test_mistakes(failure, fruit, tmp_path):
    assert "exists: name a new folder" in failure("convert_data", fruit, tmp_path)
    assert "no such folder: none" in failure("convert_data", "none", "new")
    assert "name a folder beside it" in failure("convert_data", fruit, fruit / "new")
    Path("empty").mkdir()
    assert "empty is no data set that is recognised" in failure("convert_data", "empty", "new")
    line = failure("convert_data", fruit, "new", "--classes", "fig", "pear")
    assert "has the classes fig, nut, not fig, pear" in line
    (fruit / "train/labels/a.txt").write_text("0 1 2\n")
    assert "a.txt line 1: " in failure("convert_data", fruit, "new")
    assert not [path for path in tmp_path.iterdir() if "part" in path.name or path.name == "new"]
