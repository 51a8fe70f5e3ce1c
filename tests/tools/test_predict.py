"""``tools/predict.py`` on common, unusual and broken images."""

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

ODD_IMAGES = {  # file, and whether it can be read
    "plain.jpg": True,
    "plain.png": True,
    "grey.png": True,
    "cmyk.jpg": True,
    "rgba.png": True,
    "deep.png": True,
    "palette.gif": True,
    "turned.jpg": True,
    "cut.jpg": False,
    "text.jpg": False,
    "empty.png": False,
}


def write_odd_images(folder) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    photo = Image.fromarray(cv2.resize(rng.integers(0, 255, (5, 6, 3), np.uint8), (60, 50)))
    photo.save(folder / "plain.jpg", quality=95)
    photo.save(folder / "plain.png")
    photo.convert("L").save(folder / "grey.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("RGBA").save(folder / "rgba.png")
    deep = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    cv2.imwrite(str(folder / "deep.png"), deep)
    photo.convert("P").save(folder / "palette.gif")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    photo.save(folder / "turned.jpg", exif=exif)
    whole = (folder / "plain.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("this is no image")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not an image")


@pytest.fixture
def predicted(trained, tool, tmp_path, capsys):
    images, out = tmp_path / "images", tmp_path / "out"
    write_odd_images(images)
    flags = ["--out", out, "--score-thr", 0.0, "--batch-size", 3]
    assert tool("predict", trained.config, trained.checkpoint, images, *flags) == 0
    document = json.loads((out / "predictions.json").read_text())
    return trained, out, document, capsys.readouterr().err


def test_unreadable_images_are_skipped_and_listed(predicted):
    _, _, document, err = predicted
    assert {e["file"] for e in document["images"]} == {k for k, ok in ODD_IMAGES.items() if ok}
    bad = {k for k, ok in ODD_IMAGES.items() if not ok}
    assert {e["file"] for e in document["skipped"]} == bad
    assert all(f"skipped {name}: " in err for name in bad)


def test_every_image_has_a_drawing_of_its_shape(predicted):
    _, out, document, _ = predicted
    pictures = [e["picture"] for e in document["images"]]
    assert len(set(pictures)) == len(pictures)
    for entry in document["images"]:
        size = (50, 60, 3) if entry["file"] != "turned.jpg" else (60, 50, 3)
        height, width, _ = cv2.imread(str(out / entry["picture"])).shape
        assert (height, width) == (6 * size[0], 6 * size[1])  # enlarged for readability
        assert (entry["height"], entry["width"]) == size[:2]


def test_predictions_have_classes_and_boxes(predicted):
    trained, out, document, _ = predicted
    classes = document["classes"]
    assert classes[-1] == "star"
    assert document["task"] == ("detection" if trained.kind == "detector" else "segmentation")
    for entry in document["images"]:
        if trained.kind == "segmentor":
            label_map = cv2.imread(str(out / entry["label_map"]), cv2.IMREAD_UNCHANGED)
            assert label_map.shape == (entry["height"], entry["width"])
            assert label_map.max() < len(classes)
            for area in entry["areas"]:
                assert area["pixels"] == (label_map == area["label"]).sum()
                assert area["class"] == classes[area["label"]]
            continue
        assert entry["instances"]
        scores = [i["score"] for i in entry["instances"]]
        assert scores == sorted(scores, reverse=True)
        for instance in entry["instances"]:
            assert instance["class"] == classes[instance["label"]]
            left, top, right, bottom = instance["bbox"]
            assert 0 <= left <= right <= entry["width"]
            assert 0 <= top <= bottom <= entry["height"]
            assert coco_mask.decode(instance["mask"]).shape == (entry["height"], entry["width"])


def test_single_image(trained, tool, tmp_path):
    source = next((trained.data_root / "val2017").glob("*.jpg"))
    image = tmp_path / "odd name.JPG"
    shutil.copy(source, image)
    out = tmp_path / "deep" / "out"
    assert tool("predict", trained.config, trained.checkpoint, image, "--out", out) == 0
    assert (out / image.name).is_file()


def test_no_readable_image_raises_and_keeps_earlier_predictions(trained, tool, tmp_path, capsys):
    out, images = tmp_path / "out", tmp_path / "images"
    out.mkdir()
    images.mkdir()
    (out / "predictions.json").write_text("earlier")
    (images / "text.jpg").write_text("this is no image")
    assert tool("predict", trained.config, trained.checkpoint, images, "--out", out) == 2
    assert "text.jpg" in capsys.readouterr().err
    assert (out / "predictions.json").read_text() == "earlier"


def test_drawings_do_not_overwrite_the_images(trained, tool, tmp_path, capsys):
    images = tmp_path / "images"
    write_odd_images(images)
    before = {p.name: p.read_bytes() for p in images.iterdir()}
    assert tool("predict", trained.config, trained.checkpoint, images, "--out", images) == 2
    assert str(images) in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in images.iterdir()} == before


def test_malformed_images(trained, tool, shared, tmp_path):
    """Real broken and unusual files: each has a prediction or is listed as skipped."""
    for folder in ("pillow", "mmcv"):
        source = shared / "data" / "malformed" / folder
        out = tmp_path / folder
        assert tool("predict", trained.config, trained.checkpoint, source, "--out", out) == 0
        document = json.loads((out / "predictions.json").read_text())
        named = [e["file"] for e in document["images"] + document["skipped"]]
        wanted = {p.name for p in source.iterdir() if p.suffix and p.suffix != ".txt"}
        assert set(named) == wanted
        assert len(named) == len(set(named))
        if folder == "pillow":
            skipped = {e["file"] for e in document["skipped"]}
            assert {"truncated_jpeg.jpg", "truncated_image.png", "broken.png"} <= skipped
            assert not skipped & {"pil_sample_cmyk.jpg", "hopper_gray.jpg", "hopper.webp"}
