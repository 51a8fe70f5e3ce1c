"""Drawing predictions, and reading images."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image

from swin_dense.engine.drawing import (
    class_colour,
    draw_detections,
    draw_sample,
    draw_segmentation,
    side_by_side,
)
from swin_dense.engine.images import UnreadableImageError, read_image
from swin_dense.engine.predict_files import class_areas, unique_name

GREY = np.full((80, 120, 3), 128, np.uint8)


def test_detections_are_drawn_at_their_positions():
    mask = np.zeros((1, 80, 120), bool)
    mask[0, 30:60, 40:70] = True
    boxes = np.array([[40.0, 30.0, 70.0, 60.0]])
    drawn = draw_detections(GREY, boxes, np.array([0]), np.array([0.9]), ["cat"], mask)
    changed = (drawn != GREY).any(-1)
    assert changed[35:55, 45:65].all()
    assert not changed[65:, :].any()
    assert not changed[:, 110:].any()
    assert (GREY == 128).all()


def test_without_masks_only_the_frame_and_the_name_are_drawn():
    boxes = np.array([[10.0, 30.0, 110.0, 75.0]])
    drawn = draw_detections(GREY, boxes, np.array([5]), None, ["cat"])
    changed = (drawn != GREY).any(-1)
    assert changed[30, 20:100].all()
    assert not changed[40:70, 20:100].any()


def test_boxes_outside_the_image_and_no_boxes():
    boxes = np.array([[-30.0, -9.0, 300.0, 200.0]])
    assert draw_detections(GREY, boxes, np.array([0]), None, ["cat"]).shape == GREY.shape
    nothing = draw_detections(GREY, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), [])
    assert (nothing == GREY).all()


def test_tiny_images_can_be_drawn():
    tiny = GREY[:3, :2]
    drawn = draw_detections(tiny, np.array([[0, 0, 2, 3]]), np.array([0]), None, ["a long name"])
    assert drawn.shape == tiny.shape


def test_classes_are_drawn_in_palette_colours():
    label_map = np.full((80, 120), 255)
    label_map[:40] = 0
    palette = [[255, 0, 0], [0, 255, 0]]
    drawn = draw_segmentation(GREY, label_map, ["sky", "sea"], palette, opacity=1.0)
    assert drawn[2, 2].tolist() == [0, 0, 255]  # BGR
    assert (drawn[60:] == GREY[60:]).all()
    assert (drawn[:40] != drawn[2, 2]).any(), "the name is written"


def test_a_class_has_one_colour_in_all_pictures():
    boxes = np.array([[20.0, 30.0, 50.0, 60.0], [70.0, 30.0, 100.0, 60.0]])
    of_both = draw_detections(GREY, boxes, np.array([3, 1]), None, [])
    alone = draw_detections(GREY, boxes[1:], np.array([3]), None, [])
    # Edges of lines are smoothed.
    assert np.abs(of_both[50, 20].astype(int) - class_colour(3)).max() < 20
    assert np.abs(of_both[50, 70].astype(int) - class_colour(1)).max() < 20
    assert np.abs(alone[50, 70].astype(int) - class_colour(3)).max() < 20
    assert len({class_colour(label) for label in range(20)}) == 20


def test_names_do_not_hide_each_other():
    """Of boxes at one place, each name is where it would be alone on a picture, or nowhere."""
    image = np.full((300, 400, 3), 128, np.uint8)
    boxes = np.tile([[100.0, 100.0, 250.0, 200.0]], (12, 1))
    names = [f"class{label}" for label in range(12)]
    drawn = draw_detections(image, boxes, np.arange(12), np.linspace(0.1, 0.9, 12), names)
    # The area of a plate is that of its colour and of the text on it: no plate lost any.
    areas = [int((drawn == class_colour(label)).all(-1).sum()) for label in range(12)]
    visible = [area for area in areas[:-1] if area]  # the last one also has the visible frame
    assert len(visible) >= 8
    assert max(visible) < 1.3 * min(visible)


def test_halves_have_titles():
    picture = side_by_side({"ground truth": GREY, "prediction": GREY})
    strip = picture.shape[0] - GREY.shape[0]
    assert picture.shape[1] == 2 * GREY.shape[1]
    assert (picture[strip:, : GREY.shape[1]] == GREY).all()
    for half in (picture[:strip, :120], picture[:strip, 120:]):
        assert (half == 255).any()
        assert (half < 128).any()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P", "I;16", "1"])
def test_modes(tmp_path, mode):
    grey = Image.fromarray(np.full((6, 9), 200, np.uint8))
    image = (
        Image.fromarray(np.full((6, 9), 200 * 257, np.uint16))
        if mode == "I;16"
        else grey.convert(mode)
    )
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    found = read_image(path)
    assert (found.shape, found.dtype) == ((6, 9, 3), np.uint8)
    if mode != "1":
        assert np.abs(found.astype(int) - 200).max() <= 3


def test_pixels_equal_those_of_the_training_pipeline(tmp_path):
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8), (50, 40))
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), pixels)
    assert (read_image(path) == cv2.imread(str(path))).all()


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0 broken", b"GIF89a"])
def test_unreadable_images(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError):
        read_image(path)


def test_unique_names():
    taken: set[str] = set()
    names = [unique_name("a.png", taken) for _ in range(3)]
    assert names == ["a.png", "a_2.png", "a_3.png"]


def test_class_areas_are_sorted():
    areas = class_areas(np.array([[0, 1, 1, 9]]), ["sky", "sea"])
    assert [(a["class"], a["pixels"], a["fraction"]) for a in areas] == [
        ("sea", 2, 0.5),
        ("sky", 1, 0.25),
        ("class 9", 1, 0.25),
    ]


@pytest.mark.parametrize(("size", "zoom"), [((96, 96), 4), ((40, 192), 2), ((200, 300), 1)])
def test_small_images_are_enlarged_with_their_annotations(size, zoom):
    sample = DetDataSample(
        pred_instances=InstanceData(
            bboxes=torch.tensor([[4.0, 20.0, 14.0, 36.0]]),
            labels=torch.tensor([0]),
            scores=torch.tensor([0.9]),
            masks=torch.zeros(1, *size, dtype=torch.bool),
        )
    )
    black = np.zeros((*size, 3), np.uint8)
    drawn = draw_sample(black, sample, {"classes": ["x"]})
    assert drawn.shape == (zoom * size[0], zoom * size[1], 3)
    # The left side of the box is drawn at half its height, and nothing right of the box.
    assert drawn[28 * zoom, 4 * zoom].any()
    assert not drawn[28 * zoom, 16 * zoom :].any()
