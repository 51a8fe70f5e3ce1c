"""Images that cannot be read: named while a model is trained, or replaced by others and listed."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def wrong_checksum(path: Path) -> None:
    """A PNG under the image's name, one byte of whose pixels was changed."""
    data = bytearray(cv2.imencode(".png", cv2.imread(str(path)))[1].tobytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def floats(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((64, 64), np.float32)).save(path, "tiff")


DAMAGE = {
    "empty": (empty, "the file is empty"),
    "cut off": (cut_off, "damaged or cut off"),
    "wrong checksum": (wrong_checksum, "a checksum of its pixels is wrong"),
    "floats": (floats, "floating-point numbers"),
}


@pytest.fixture
def data(shapes_root, tmp_path):
    """The data set of the tiny models; the check before training does not see what `later` does."""
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    return root


@pytest.fixture
def unchecked(monkeypatch):
    """Damage that comes after the check of the headers, or that headers do not show."""
    monkeypatch.setattr("swin_dense.engine.train.check_data", lambda cfg, splits: [])


def flags(data: Path, tmp_path: Path, workers: int) -> list:
    return [
        *("--data-root", data, "--work-dir", tmp_path / "w", "--from-scratch", "--device", "cpu"),
        *("--cfg-options", f"train_dataloader.num_workers={workers}"),
        *("train_dataloader.persistent_workers=False", "train_cfg.val_interval=9"),
    ]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.usefixtures("unchecked")
def test_bad_image_is_named(damage, reason, data, failure, tmp_path):
    bad = data / "train2017" / "000000000003.jpg"
    damage(bad)
    line = failure("train", HERE / "tiny_detector.py", *flags(data, tmp_path, 0))
    assert f"{bad} cannot be read" in line
    assert reason in line
    assert "--skip-bad-images" in line


@pytest.mark.usefixtures("unchecked")
def test_bad_image_is_named_by_a_worker(data, failure, tmp_path):
    bad = data / "annotations" / "training" / "000000000003.png"
    empty(bad)
    line = failure("train", HERE / "tiny_segmentor.py", *flags(data, tmp_path, 2))
    assert line.startswith(f"error: {bad} cannot be read: the file is empty; replace")


@pytest.mark.usefixtures("unchecked")
def test_a_label_that_no_class_has_is_named(data, failure, tmp_path):
    """In a map that the check before training has not read: it reads some of many."""
    bad = data / "annotations" / "training" / "000000000003.png"
    cv2.imwrite(str(bad), np.full((64, 64), 77, np.uint8))
    line = failure("train", HERE / "tiny_segmentor.py", *flags(data, tmp_path, 0))
    words = "contains the value 77, but 5 classes are numbered 0 to 4, and 255 is ignored; replace"
    assert f"{bad} {words}" in line


@pytest.mark.parametrize(("kind", "workers"), [("detector", 0), ("segmentor", 2)])
def test_bad_images_are_skipped_and_listed(kind, workers, data, tool, tmp_path, capfd):
    for number, (damage, _) in enumerate(DAMAGE.values(), start=1):
        damage(data / "train2017" / f"{number:012d}.jpg")
    other = data / "train2017" / "000000000005.jpg"
    cv2.imwrite(str(other), cv2.imread(str(other))[:40])
    options = flags(data, tmp_path, workers)
    assert tool("train", HERE / f"tiny_{kind}.py", *options, "--skip-bad-images") == 0
    shown = "\n".join(capfd.readouterr().out.splitlines())
    (listed,) = (tmp_path / "w").glob("*/skipped_images.json")
    files = json.loads(listed.read_text())
    assert "warning: 5 images were skipped" in shown
    assert all(file in shown for file in files)
    for number, (_, reason) in enumerate(DAMAGE.values(), start=1):
        assert reason in "".join(f for f in files if f"{number:012d}.jpg" in f)
    assert any("x 40" in file for file in files)


def test_bad_images_stop_an_evaluation(trained, data, failure, tmp_path):
    cut_off(data / "val2017" / "000000000002.jpg")
    options = ["--data-root", data, "--work-dir", tmp_path / "w"]
    line = failure("test", trained.config, trained.checkpoint, *options)
    assert "000000000002.jpg cannot be read: damaged or cut off" in line


def test_thin_images_do_not_end_a_prediction(trained, data, tool, tmp_path, capsys):
    images, out = data / "val2017", tmp_path / "out"
    cv2.imwrite(str(images / "thin.png"), np.zeros((1, 3000, 3), np.uint8))
    arguments = [trained.config, trained.checkpoint, images, "--out", out, "--batch-size", 3]
    assert tool("predict", *arguments) == 0
    document = json.loads((out / "predictions.json").read_text())
    assert len(document["images"]) == 4
    (skipped,) = document["skipped"]
    assert skipped["file"] == "thin.png"
    assert "cannot be resized from 3000 x 1" in skipped["reason"]
    assert "skipped thin.png" in capsys.readouterr().err


def test_pictures_and_label_maps_keep_their_folders(trained, data, tool, tmp_path):
    images, maps = data / "val2017", data / "annotations" / "validation"
    annotations = data / "annotations" / "instances_val2017.json"
    content = json.loads(annotations.read_text())
    for i, image in enumerate(content["images"]):
        name = Path(f"d{i}", "0.jpg")
        for folder, old in (
            (images, image["file_name"]),
            (maps, f"{Path(image['file_name']).stem}.png"),
        ):
            new = (folder / name).with_suffix(Path(old).suffix)
            new.parent.mkdir()
            (folder / old).rename(new)
        image["file_name"] = str(name)
    annotations.write_text(json.dumps(content))
    options = ["--data-root", data, "--work-dir", tmp_path / "w", "--show-dir", tmp_path / "show"]
    options += ["--out", tmp_path / "maps"] if trained.kind == "segmentor" else []
    assert tool("test", trained.config, trained.checkpoint, *options) == 0
    assert {str(p.relative_to(tmp_path / "show")) for p in (tmp_path / "show").rglob("*.jpg")} == {
        f"d{i}/0.jpg" for i in range(4)
    }
    if trained.kind == "segmentor":
        assert sorted(p.parent.name for p in (tmp_path / "maps").rglob("0.png")) == [
            f"d{i}" for i in range(4)
        ]
        written = cv2.imread(str(tmp_path / "maps" / "d0" / "0.png"), cv2.IMREAD_UNCHANGED)
        assert written.shape == (64, 64)
        assert written.max() < 5


def test_classes_in_another_order_than_the_checkpoint(trained, data, failure, tool, tmp_path):
    """Every number is that of other classes, though all sizes fit."""
    import torch

    content = torch.load(trained.checkpoint, weights_only=True)
    classes = content["meta"]["dataset_meta"]["classes"]
    content["meta"]["dataset_meta"]["classes"] = tuple(reversed(classes))
    torch.save(content, "reversed.pth")
    options = ["--data-root", data, "--work-dir", tmp_path / "w"]
    for line in (
        failure("test", trained.config, "reversed.pth", *options),
        failure("train", trained.config, "--resume", "reversed.pth", *options),
    ):
        assert "reversed.pth was trained on the same classes in another order" in line
        assert f"label 0 is '{classes[0]}' in the config and '{classes[-1]}' there" in line
