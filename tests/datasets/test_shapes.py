"""The generated data set: images, files, and atomic writing."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as PolygonPath
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.datasets import BaseSegDataset
from pycocotools.coco import COCO

from swin_dense.datasets import shapes
from swin_dense.datasets.shapes import CLASSES, ShapesSpec, draw_scene, write_shapes
from swin_dense.errors import UserError
from swin_dense_cli.make_shapes import main

SPEC = ShapesSpec(train=5, val=2, size=96, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    assert write_shapes(folder, SPEC)
    return folder


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@given(seed=st.integers(0, 2**32), size=st.integers(32, 160))
@settings(max_examples=25, deadline=None)
def test_visible_masks_are_disjoint_and_large_enough(seed: int, size: int):
    scene = draw_scene(np.random.default_rng(seed), size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert len(scene.labels) == len(scene.masks) >= 1
    assert np.sum(scene.masks, axis=0).max() == 1
    # The smallest shape is a star of radius 0.15 * size; a star covers 1.23 squared radii.
    smallest = 1.23 * (0.15 * size) ** 2
    assert min(mask.sum() for mask in scene.masks) >= 0.9 * shapes._MIN_VISIBLE * smallest - 2
    semantic = scene.semantic()
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        assert (semantic[mask] == label + 1).all()
    assert ((semantic > 0) == np.any(scene.masks, axis=0)).all()


def test_the_last_shape_is_on_top():
    """Only the last shape is sure to be fully visible: a circle's area must match its box."""
    circles = []
    for seed in range(60):
        scene = draw_scene(np.random.default_rng(seed), 128)
        if CLASSES[scene.labels[-1]] == "circle":
            ys, xs = np.nonzero(scene.masks[-1])
            diameters = np.array([np.ptp(xs) + 1, np.ptp(ys) + 1])
            circles.append(scene.masks[-1].sum() / (np.pi / 4 * diameters.prod()))
    assert len(circles) >= 8
    assert circles == pytest.approx([1.0] * len(circles), abs=0.05)  # of pixels


def test_drawing_covers_the_mask_and_contrasts(monkeypatch: pytest.MonkeyPatch):
    draw = shapes._draw_shape
    contrasts = []

    def watched(rng, canvas, distance):
        before = canvas.copy()
        draw(rng, canvas, distance)
        assert (canvas[distance > 0.5] == before[distance > 0.5]).all()
        inside = distance < -0.5  # without the mixed colours of the edge
        contrasts.append(np.linalg.norm((canvas - before)[inside].mean(axis=0)))

    monkeypatch.setattr(shapes, "_draw_shape", watched)
    for seed in range(20):
        draw_scene(np.random.default_rng(seed), 96)
    assert len(contrasts) >= 40
    assert min(contrasts) > 0.9 * shapes._MIN_CONTRAST  # the function's own mean includes the edge


def test_polygon_distance_agrees_with_matplotlib():
    corners = np.array([[2.1, 3.2], [17.3, 5.1], [9.2, 9.4], [12.3, 18.2]])
    rows, cols = (axis + 0.5 for axis in np.ogrid[:20, :20])
    distance = shapes.polygon_distance(corners, rows, cols)
    points = np.stack(np.broadcast_arrays(cols, rows), axis=-1).reshape(-1, 2)
    inside = PolygonPath(corners).contains_points(points).reshape(20, 20)
    assert ((distance < 0) == inside).all()
    # Densely sampled outline: its nearest point has an error of at most half a step.
    steps = np.linspace(0, 1, 2000)[:, None]
    outline = np.concatenate(
        [a + steps * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]
    )
    nearest = np.linalg.norm(points[:, None] - outline, axis=2).min(axis=1).reshape(20, 20)
    np.testing.assert_allclose(np.abs(distance), nearest, atol=0.01)


def test_seed_determines_the_files(root: Path, tmp_path: Path):
    write_shapes(tmp_path / "again", SPEC)
    write_shapes(tmp_path / "other", ShapesSpec(train=5, val=2, size=96, seed=4))
    write_shapes(tmp_path / "larger", ShapesSpec(train=6, val=3, size=96, seed=3))
    written = _files(root)
    assert _files(tmp_path / "again") == written
    images = {name for name in written if name.endswith(".jpg")}
    assert len(images) == 7
    other, larger = _files(tmp_path / "other"), _files(tmp_path / "larger")
    assert all(other[name] != written[name] for name in images)
    assert all(larger[name] == written[name] for name in images)
    assert len({written[name] for name in images}) == len(images)


@pytest.mark.parametrize(
    ("coco_name", "ade_name", "number"),
    [("train2017", "training", 5), ("val2017", "validation", 2)],
)
def test_coco_masks_and_label_maps_agree(root: Path, coco_name: str, ade_name: str, number: int):
    coco = COCO(str(root / "annotations" / f"instances_{coco_name}.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.getImgIds()) == number
    for image in coco.loadImgs(coco.getImgIds()):
        stem = Path(image["file_name"]).stem
        pixels = cv2.imread(str(root / coco_name / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3) == (96, 96, 3)
        label_map = cv2.imread(str(root / "annotations" / ade_name / f"{stem}.png"), -1)
        rebuilt = np.zeros((96, 96), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds([image["id"]])):
            mask = coco.annToMask(annotation).astype(bool)
            ys, xs = np.nonzero(mask)
            tight = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert annotation["bbox"] == tight
            assert annotation["area"] == mask.sum()
            assert not rebuilt[mask].any()
            rebuilt[mask] = annotation["category_id"]
        assert (rebuilt == label_map).all()


def test_demo_configs_read_the_data_set(root: Path, repo: Path):
    config = Config.fromfile(repo / "configs" / "cascade_swin_nano_shapes.py")
    settings_ = {**config.train_dataloader.dataset, "data_root": str(root)}
    assert settings_.pop("type") == "CocoDataset"
    with DefaultScope.overwrite_default_scope("mmdet"):
        detection = CocoDataset(**settings_)
        instances = detection[0]["data_samples"].gt_instances
    assert detection.metainfo["classes"] == CLASSES
    assert len(detection) == 5
    assert len(instances.bboxes) == len(instances.masks) == len(instances.labels) >= 2

    config = Config.fromfile(repo / "configs" / "upernet_swin_nano_shapes.py")
    settings_ = {**config.train_dataloader.dataset, "data_root": str(root)}
    assert settings_.pop("type") == "BaseSegDataset"
    with DefaultScope.overwrite_default_scope("mmseg"):
        segmentation = BaseSegDataset(**settings_)
        labels = np.concatenate(
            [sample["data_samples"].gt_sem_seg.data.unique() for sample in segmentation]
        )
    assert segmentation.metainfo["classes"] == ("background", *CLASSES)
    assert not segmentation.reduce_zero_label
    assert len(segmentation) == 5
    assert set(labels) == {0, 1, 2, 3, 4}


def test_existing_data_set_is_not_written_again(root: Path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert not write_shapes(root, SPEC)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_interruption_leaves_no_files(tmp_path: Path):
    target = tmp_path / "deep" / "shapes"

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes(target, SPEC, on_image=stop)
    assert list(target.parent.iterdir()) == []
    assert write_shapes(target, SPEC)
    assert [path.name for path in target.parent.iterdir()] == ["shapes"]


def test_empty_folder_is_filled(tmp_path: Path):
    assert write_shapes(tmp_path, ShapesSpec(train=1, val=1, size=32))
    assert json.loads((tmp_path / shapes.MANIFEST).read_text())["train"] == 1


def test_other_folders_raise_and_are_kept(root: Path, tmp_path: Path):
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    with pytest.raises(UserError, match="contains no shapes data set"):
        write_shapes(tmp_path, SPEC)
    with pytest.raises(UserError, match="is a file"):
        write_shapes(thesis, SPEC)
    with pytest.raises(UserError, match="cannot write"):
        write_shapes(thesis / "below", SPEC)
    assert _files(tmp_path) == {"thesis.txt": b"years of work"}
    written = _files(root)
    with pytest.raises(UserError, match="another shapes data set"):
        write_shapes(root, ShapesSpec(train=5, val=2, size=96, seed=4))
    assert _files(root) == written


@pytest.mark.parametrize(
    "wrong", [{"train": 0}, {"val": 0}, {"size": 31}, {"seed": -1}], ids=lambda w: next(iter(w))
)
def test_invalid_arguments_raise(wrong: dict[str, int]):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        ShapesSpec(**wrong)


def test_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [str(tmp_path / "s"), "--train", "2", "--val", "1", "--size", "48"]
    assert main(arguments) == 0
    assert "2 + 1 images) written to" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "already in" in capsys.readouterr().out
    assert main([*arguments, "--seed", "1"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert str(tmp_path / "s") in error
