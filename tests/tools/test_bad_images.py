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
