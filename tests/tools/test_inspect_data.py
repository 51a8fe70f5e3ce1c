"""``tools/inspect_data.py``: the page of a data set, and what it finds in one with mistakes."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
BOX = "{} 0.5 0.5 0.4 0.4\n"


def photo(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, (128, 96), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def fruit(tmp_path) -> Path:
    """A YOLO data set with a tiny object, an image that is there twice, and one in validation."""
    root = tmp_path / "<fruit>"
    for folder in ("images", "labels"):
        for split in ("train", "val"):
            (root / folder / split).mkdir(parents=True)
    for i in range(4):
        cv2.imwrite(str(root / f"images/train/{i}.jpg"), photo(i))
        (root / f"labels/train/{i}.txt").write_text(BOX.format(i % 2))
    (root / "labels/train/3.txt").write_text(BOX.format(0) + "1 0.5 0.5 0.01 0.3\n")
    for split, name in (("train", "copy"), ("val", "leak")):
        shutil.copy(root / "images/train/0.jpg", root / f"images/{split}/{name}.jpg")
        (root / f"labels/{split}/{name}.txt").write_text(BOX.format(0))
    text = "names: [fig, <date>, nut]\ntrain: images/train\nval: images/val\n"
    (root / "data.yaml").write_text(text)
    return root


def test_folder(tool, fruit, browser, tmp_path, capfd):
    out = tmp_path / "page"
    assert tool("inspect_data", fruit, "--out", out, "--samples", 1) == 0
    lines = capfd.readouterr().out
    assert "is a YOLO data set" in lines
    assert "suspicious: 1 leak, 1 duplicate, 1 tiny" in lines
    *found, recognised, boxes_alone = json.loads((out / "suspicious.json").read_text())
    assert recognised["kind"] == boxes_alone["kind"] == "own_data"
    assert recognised["what"] in lines
    assert sorted((f["kind"], [Path(i).name for i in f["images"]]) for f in found) == [
        ("duplicate", ["0.jpg", "copy.jpg"]),
        ("leak", ["copy.jpg", "leak.jpg"]),
        ("tiny", ["3.jpg"]),
    ]

    page = out / "index.html"
    html = page.read_text()
    assert html.count('src="data:image/jpeg') == 3 + 1 + 1  # suspicious, loaded and augmented
    assert html.count('src="data:image/svg') == 2
    assert f'href="{(fruit / "images/train/3.jpg").as_uri()}"' in html
    assert not re.findall(r'src="(?!data:)', html)
    shown = browser(page, "--dump-dom")
    text = re.sub(r"<style.*?</style>|<[^>]+>|\s+", " ", shown, flags=re.DOTALL)
    for part in (
        *("Every check that is made before a training passes", "As loaded", "As augmented"),
        "own_data: not every object has a polygon, so boxes alone are trained",
        "Classes without labels in training: nut",
        "the same file in train and val",
        "&lt;date&gt;, annotation 5: 1.28 x 28.8 pixels",
    ):
        assert part in text, part
    picture = tmp_path / "shot.png"
    browser(page, f"--screenshot={picture}", "--window-size=1200,4000")
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape == (4000, 1200, 3)
    assert len(np.unique(pixels[::4, ::4].reshape(-1, 3), axis=0)) > 1000  # there are photographs


def test_config_of_label_maps_that_would_not_train(tool, shapes_root, tmp_path, capfd):
    root = tmp_path / "shapes"
    shutil.copytree(shapes_root, root)
    bad = next((root / "annotations/validation").glob("*.png"))
    Image.fromarray(np.full((64, 64), 99, np.uint8)).save(bad)
    words = ["--data-root", root, "--out", tmp_path / "page", "--samples", 1]
    assert tool("inspect_data", HERE / "tiny_segmentor.py", *words) == 2
    captured = capfd.readouterr()
    assert "contains the value 99" in captured.err
    assert "the page is" in captured.err
    html = (tmp_path / "page" / "index.html").read_text()
    assert "contains the value 99" in html
    assert html.count('src="data:image/jpeg') == 1 + 1 + 1  # without labels, loaded, augmented
    assert "circle" in html


def test_what_was_put_right_is_on_the_page(tool, shapes_root, tmp_path, capfd):
    root = tmp_path / "shapes"
    for folder in ("train2017", "val2017"):
        shutil.copytree(shapes_root / folder, root / folder)
    for path in (shapes_root / "annotations").glob("instances_*.json"):
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            del annotation["iscrowd"]
        if "val" in path.stem:
            content["categories"].reverse()
        (root / path.name).write_text(json.dumps(content))
    assert tool("inspect_data", root, "--out", tmp_path / "page", "--samples", 0) == 0
    html = (tmp_path / "page" / "index.html").read_text()
    listed = json.loads((tmp_path / "page" / "suspicious.json").read_text())
    out = capfd.readouterr().out
    told = [one["what"] for one in listed if one["kind"] == "own_data"]
    for part in ("annotations have no iscrowd", "are brought into the order of training"):
        (line,) = {line for line in told if part in line and "val2017" in line}
        assert f"own_data: {line}" in html
        assert line in out


def test_mistakes(failure, tmp_path):
    Path("empty").mkdir()
    assert "empty is no data set that is recognised" in failure(
        "inspect_data", "empty", "--out", "o"
    )
    assert "no such config: none.py" in failure("inspect_data", "none.py", "--out", "o")
    line = failure("inspect_data", HERE / "tiny_detector.py", "--out", "o")
    assert "no data root data/tiny/ (train data set)" in line
    assert "required: --out" in failure("inspect_data", "empty")
    assert not Path("o").exists()
