"""``tools/predict.py``: COCO results, videos, URLs, lists, and a clean terminal."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

HERE = Path(__file__).parent
RATE = 10
CLASSES = ("circle", "square", "triangle", "star")
of_detectors = pytest.mark.parametrize("trained", ["detector"], indirect=True)


def write_video(path: Path, size=(101, 60), length: int = 7) -> None:
    """A square that moves."""
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    video = cv2.VideoWriter(str(path), code, RATE, size)
    for i in range(length):
        frame = np.full((size[1], size[0], 3), 90, np.uint8)
        frame[20:40, 10 + 5 * i : 30 + 5 * i] = (20, 200, 230)
        video.write(frame)
    video.release()


def read_video(path: Path) -> list:
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames


@pytest.fixture
def predict(trained, tool, tmp_path, capfd):
    """Runs the tool on inputs; returns its folder and what it wrote on stderr."""

    def run(*arguments):
        out = tmp_path / "out"
        capfd.readouterr()
        files = (trained.config, trained.checkpoint)
        assert tool("predict", *files, *arguments, "--out", out) == 0
        return out, capfd.readouterr().err

    return run


def read(path: Path):
    return json.loads(path.read_text())


@of_detectors
def test_coco_results_with_ids_of_the_data_set(trained, predict, tool, tmp_path):
    """They are those that the data set's own evaluation gets, also in their ids."""
    annotations = read(trained.data_root / "annotations" / "instances_val2017.json")
    ids = {}
    for number, image in enumerate(annotations["images"], start=71):
        ids[image["id"]] = image["id"] = number
    for annotation in annotations["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"]]
        annotation["category_id"] += 40
    for category in annotations["categories"]:
        category["id"] += 40
    ann_file = tmp_path / "annotations.json"
    ann_file.write_text(json.dumps(annotations))
    images = trained.data_root / "val2017"
    stranger = tmp_path / "stranger.jpg"
    shutil.copy(next(images.iterdir()), stranger)
    out, err = predict(images, stranger, "--format", "coco", "--ann-file", ann_file)
    assert f"skipped stranger.jpg: not an image of {ann_file}" in err

    metric = {"test_evaluator.ann_file": ann_file, "test_dataloader.dataset.ann_file": ann_file}
    metric |= {"test_evaluator.outfile_prefix": tmp_path / "own", "test_dataloader.batch_size": 1}
    options = [f"{key}={value}" for key, value in metric.items()]
    root = ["--data-root", trained.data_root, "--work-dir", tmp_path / "w"]
    files = (trained.config, trained.checkpoint)
    assert tool("test", *files, *root, "--cfg-options", *options) == 0
    results = read(out / "predictions.json")
    assert len(results) > 4
    boxes, masks = read(tmp_path / "own.bbox.json"), read(tmp_path / "own.segm.json")
    keys = ("image_id", "category_id", "bbox", "score")
    assert [{key: one[key] for key in keys} for one in results] == boxes
    assert [one["segmentation"] for one in results] == [one["segmentation"] for one in masks]

    truth = COCO(str(ann_file))
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes(str(out / "predictions.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        assert (evaluation.eval["precision"] > -1).any()


@of_detectors
def test_coco_results_without_annotations(trained, predict):
    """Images are numbered, and listed with the categories beside."""
    images = sorted((trained.data_root / "val2017").glob("*.jpg"))
    out, _ = predict(*images[:2], "--format", "coco", "--score-thr", 0.2)
    listed = COCO(str(out / "images.json"))
    assert [one["file_name"] for one in listed.dataset["images"]] == [str(p) for p in images[:2]]
    assert [one["name"] for one in listed.dataset["categories"]] == list(CLASSES)
    results = listed.loadRes(str(out / "predictions.json"))
    assert results.getImgIds() == [1, 2]
    assert all(one["score"] >= 0.2 for one in results.dataset["annotations"])


def test_category_ids_of_the_data_or_of_coco(shapes_root, tmp_path):
    from mmdet.datasets import CocoDataset
    from mmengine.config import Config

    from swin_dense.engine.coco_results import CocoResults

    def ids(cfg, classes):
        listed = CocoResults(cfg, classes, None).images["categories"]
        assert [one["name"] for one in listed] == list(classes)
        return [one["id"] for one in listed]

    content = read(shapes_root / "annotations" / "instances_val2017.json")
    names = [one["name"] for one in content["categories"]]
    content["categories"] = [{"id": 9 - i, "name": name} for i, name in enumerate(names)]
    content["annotations"] = []
    (tmp_path / "own.json").write_text(json.dumps(content))
    dataset = {"type": "CocoDataset", "data_root": str(tmp_path), "ann_file": "own.json"}
    cfg = Config({"default_scope": "mmdet", "test_dataloader": {"dataset": dataset}})
    assert ids(cfg, names) == [9, 8, 7, 6]
    assert ids(cfg, ("bird", "person")) == [1, 2]
    of_coco = ids(Config(), CocoDataset.METAINFO["classes"])
    assert (len(of_coco), of_coco[11], of_coco[-1]) == (80, 13, 90)


def test_coco_categories_are_those_of_the_real_file(shared):
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    content = read(shared / "data" / "coco_mini" / "annotations" / "instances_val2017.json")
    assert all(names[one["id"]] == one["name"] for one in content["categories"])


def test_formats_are_refused_that_do_not_fit(trained, failure, tmp_path):
    image = next((trained.data_root / "val2017").glob("*.jpg"))
    ann_file = trained.data_root / "annotations" / "instances_val2017.json"
    call = ("predict", trained.config, trained.checkpoint, image, "--out", tmp_path / "out")
    assert "add that" in failure(*call, "--ann-file", ann_file)
    coco = (*call, "--format", "coco")
    assert "no annotation file none.json" in failure(*coco, "--ann-file", "none.json")
    if trained.kind == "segmentor":
        assert "of a segmentor, whose results are the label maps" in failure(*coco)
    else:
        content = read(ann_file)
        for number, category in enumerate(content["categories"]):
            category["name"] = f"other {number}"
        Path("other.json").write_text(json.dumps(content))
        assert "none of the model's classes" in failure(*coco, "--ann-file", "other.json")


def test_boxes_say_what_they_are(predict, trained):
    out, _ = predict(trained.data_root / "val2017")
    document = read(out / "predictions.json")
    if trained.kind == "detector":
        assert (document["bbox_format"], document["bbox_unit"]) == ("xyxy", "pixels")
        assert "RLE" in document["mask_format"]
    assert document["videos"] == []


@pytest.mark.parametrize("batch", [1, 4])
def test_video(predict, trained, tmp_path, batch):
    source = tmp_path / ("clip.avi" if batch == 1 else "clip [b].mp4")
    write_video(source)
    flags = ["--score-thr", 0, "--batch-size", batch]
    out, err = predict(source, *flags)
    assert err == ""
    (entry,) = read(out / "predictions.json")["videos"]
    assert (entry["file"], entry["source"]) == (source.name, str(source))
    frames = read_video(source)
    height, width = frames[0].shape[:2]
    assert (entry["width"], entry["height"]) == (width, height)
    assert entry["frames_per_second"] == RATE
    assert [frame["frame"] for frame in entry["frames"]] == list(range(7))
    written = read_video(out / entry["video"])
    assert [frame.shape for frame in written] == [(3 * height, 3 * width // 2 * 2, 3)] * 7
    assert not list(out.glob(".*"))
    for number in (0, 6):
        image = tmp_path / f"{number}.png"
        cv2.imwrite(str(image), frames[number])
        predict(image, *flags)
        (alone,) = read(out / "predictions.json")["images"]
        key = "areas" if trained.kind == "segmentor" else "instances"
        if batch == 1:
            assert alone[key] == entry["frames"][number][key]
        else:
            assert len(alone[key]) == len(entry["frames"][number][key])
        drawn = cv2.imread(str(out / f"{number}.png"))[:, : written[0].shape[1]]
        difference = np.abs(drawn.astype(int) - written[number])
        assert difference.mean() < 8  # of the compression


def test_video_that_is_cut_off(predict, trained, tmp_path):
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    write_video(whole, length=20)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    (tmp_path / "text.mp4").write_text("this is no video")
    write_video(tmp_path / "thin.avi", size=(400, 2))
    files = [tmp_path / name for name in ("cut.avi", "text.mp4", "thin.avi")]
    image = next((trained.data_root / "val2017").glob("*.jpg"))
    out, err = predict(image, *files)
    document = read(out / "predictions.json")
    (video, *_) = document["videos"]
    assert 0 < len(video["frames"]) < 20
    lines = err.splitlines()
    number = len(video["frames"])
    assert f"skipped cut.avi: {number} of the 20 frames that it tells of can be read" in lines
    assert "skipped text.mp4: not a video, or of an unknown format" in lines
    assert [line.split(":")[0] for line in lines] == [
        f"skipped {n}" for n in ("cut.avi", "text.mp4", "thin.avi")
    ]


@of_detectors
def test_coco_results_of_a_video(predict, tmp_path):
    write_video(tmp_path / "clip.avi", length=2)
    out, _ = predict(tmp_path / "clip.avi", "--format", "coco")
    listed = COCO(str(out / "images.json"))
    assert [(one["id"], one["frame"]) for one in listed.dataset["images"]] == [(1, 0), (2, 1)]
    listed.loadRes(str(out / "predictions.json"))


def test_urls_and_lists(predict, trained, web_folder, tmp_path):
    folder, address = web_folder
    images = sorted((trained.data_root / "val2017").glob("*.jpg"))
    shutil.copy(images[0], folder / "on the web.jpg")
    inputs = tmp_path / "images.txt"
    inputs.write_text(f"{images[1]}\n{address}/on%20the%20web.jpg\n{address}/none.jpg\ngone.jpg\n")
    out, err = predict(inputs)
    document = read(out / "predictions.json")
    assert [one["file"] for one in document["images"]] == [images[1].name, "on the web.jpg"]
    assert document["images"][1]["source"] == f"{address}/on%20the%20web.jpg"
    assert (out / "on the web.jpg").is_file()
    assert "skipped none.jpg: cannot be downloaded" in err
    assert "skipped gone.jpg: no such file" in err


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_urls_that_are_no_images(predict, trained, web_folder, monkeypatch):
    folder, address = web_folder
    monkeypatch.setattr("swin_dense.engine.inputs._IMAGE_LIMITS", (1 << 20, 0.3))
    (folder / "page.jpg").write_text("<!DOCTYPE html><html>sign in</html>")
    image = next((trained.data_root / "val2017").glob("*.jpg"))
    shutil.copy(image, folder / "good.jpg")
    names = ("endless", "slow", "none", "page", "good", "to_file")
    out, err = predict(*(f"{address}/{name}.jpg" for name in names))
    assert err.splitlines() == [
        "skipped endless.jpg: cannot be downloaded (it has more than 1 MiB)",
        "skipped slow.jpg: cannot be downloaded (it takes more than 0.3 s)",
        "skipped none.jpg: cannot be downloaded (HTTP Error 404: File not found)",
        "skipped page.jpg: a web page, not an image",
        err.splitlines()[-1],
    ]
    assert err.splitlines()[-1].startswith("skipped to_file.jpg: cannot be downloaded (HTTP Error")
    document = read(out / "predictions.json")
    assert [one["file"] for one in document["images"]] == ["good.jpg"]
    assert document["skipped"][0]["source"] == f"{address}/endless.jpg"


def png_with_a_bad_profile(pixels: np.ndarray) -> bytes:
    """libpng warns of it on stderr."""
    data = cv2.imencode(".png", pixels)[1].tobytes()
    chunk = b"iCCP" + b"bad\0\0" + zlib.compress(b"no profile")
    header = 8 + 25
    checksum = struct.pack(">I", zlib.crc32(chunk))
    return data[:header] + struct.pack(">I", len(chunk) - 4) + chunk + checksum + data[header:]


def test_decoders_are_quiet_and_other_files_are_named(predict, tmp_path, capfd):
    folder = tmp_path / "images"
    folder.mkdir()
    bad = png_with_a_bad_profile(np.zeros((64, 64, 3), np.uint8))
    (folder / "profile.png").write_bytes(bad)
    cv2.imdecode(np.frombuffer(bad, np.uint8), cv2.IMREAD_COLOR)
    assert "libpng" in capfd.readouterr().err
    for number in range(22):
        (folder / f"notes_{number:02d}.txt").write_text("no image")
    out, err = predict(folder)
    lines = err.splitlines()
    assert lines[0] == "skipped notes_00.txt: not an image or a video"
    assert lines[-1] == f"skipped 2 more: {out}/predictions.json lists all"
    assert len(lines) == 21
    assert len(read(out / "predictions.json")["other_files"]) == 22
