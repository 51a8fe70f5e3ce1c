"""InstaBoost moves pixels, masks, boxes and labels consistently."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import DefaultScope

from swin_dense.datasets.instaboost import InstaBoost, overlapping_groups
from swin_dense.errors import UserError

HEIGHT, WIDTH = 120, 160
# Rows and columns of four squares: two far from the border, one at the border, one ignored.
SQUARES = [(30, 30), (30, 90), (90, 0), (80, 120)]
SIDE = 24
COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)]
BACKGROUND = 100


def scene(squares: list[tuple[int, int]] = SQUARES) -> dict[str, Any]:
    """Coloured squares on a plain background, in the format that InstaBoost receives."""
    image = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    masks = np.zeros((len(squares), HEIGHT, WIDTH), np.uint8)
    seg_map = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i, (row, column) in enumerate(squares):
        window = slice(row, row + SIDE), slice(column, column + SIDE)
        image[window], masks[i][window], seg_map[window] = COLOURS[i], 1, i + 1
    return {
        "img": image,
        "gt_masks": BitmapMasks(masks, HEIGHT, WIDTH),
        "gt_bboxes": HorizontalBoxes(
            np.array([(c, r, c + SIDE, r + SIDE) for r, c in squares], np.float32).reshape(-1, 4)
        ),
        "gt_bboxes_labels": np.arange(len(squares)),
        "gt_ignore_flags": np.array([i == 3 for i in range(len(squares))], bool),
        "gt_seg_map": seg_map,
    }


def boxes_of(masks: BitmapMasks) -> np.ndarray:
    return HorizontalBoxes.from_instance_masks(masks).numpy()


def boosted(results: dict[str, Any], seed: int = 0, **options: Any) -> dict[str, Any]:
    np.random.seed(seed)
    return InstaBoost(**{"prob": 1.0, "color_prob": 0.0, **options})(copy.deepcopy(results))


@pytest.mark.parametrize("seed", range(5))
def test_masks_boxes_labels_and_pixels_agree(seed):
    before, after = scene(), boosted(scene(), seed)
    masks = after["gt_masks"].masks.astype(bool)
    assert len(masks) == len(after["gt_bboxes"]) == 4
    assert not np.array_equal(masks, before["gt_masks"].masks.astype(bool))
    np.testing.assert_allclose(after["gt_bboxes"].numpy(), boxes_of(after["gt_masks"]))
    for i in range(3):
        # Within 0.8 to 1.2 of the side, plus rounding of half a pixel at each edge.
        assert (0.8 * SIDE - 1) ** 2 <= masks[i].sum() <= (1.2 * SIDE + 1) ** 2
        assert (after["gt_seg_map"][masks[i]] == i + 1).all()
        inside = masks[i] & ~edge(masks[i])
        assert np.abs(after["img"][inside].astype(int) - COLOURS[i]).max() <= 2  # interpolation


def edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask with a neighbour outside it, where colours mix."""
    padded = np.pad(mask, 1, constant_values=True)
    shifted = [np.roll(padded, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return mask & ~np.logical_and.reduce(shifted)[1:-1, 1:-1]


def test_uncovered_background_is_inpainted():
    before = scene()
    after = boosted(before, scale=(0.8, 0.8), shift=0.0)
    for i in range(2):
        was, now = (r["gt_masks"].masks[i].astype(bool) for r in (before, after))
        rim = was & ~now
        assert rim.sum() > 100
        assert (after["gt_seg_map"][rim] == 255).all()
        mixed = edge(~now)
        assert np.abs(after["img"][rim & ~mixed].astype(int) - BACKGROUND).max() <= 2


def test_ignored_regions_do_not_move():
    before, after = scene(), boosted(scene())
    crowd = before["gt_masks"].masks[3].astype(bool)
    np.testing.assert_array_equal(after["gt_masks"].masks[3], before["gt_masks"].masks[3])
    np.testing.assert_array_equal(after["gt_bboxes"].numpy()[3], before["gt_bboxes"].numpy()[3])
    np.testing.assert_array_equal(after["img"][crowd], before["img"][crowd])
    assert (after["gt_seg_map"][crowd] == 4).all()
    np.testing.assert_array_equal(after["gt_ignore_flags"], before["gt_ignore_flags"])


@pytest.mark.parametrize("seed", range(5))
def test_instance_at_the_border_stays_at_it(seed):
    after = boosted(scene(), seed)
    left, _top, _right, bottom = after["gt_bboxes"].numpy()[2]
    assert left == 0
    assert bottom >= 90 + SIDE  # six pixels from the lower border, at which it must stay too


@pytest.mark.parametrize("seed", range(3))
def test_overlapping_instances_move_together(seed):
    before = scene([(40, 40), (50, 55)])
    before["gt_masks"].masks[0] &= 1 - before["gt_masks"].masks[1]  # the second occludes the first
    after = boosted(before, seed, scale=(1.0, 1.0), angle=0.0)
    shifts = after["gt_bboxes"].numpy() - boxes_of(before["gt_masks"])
    np.testing.assert_array_equal(shifts[0], shifts[1])
    first, second = after["gt_masks"].masks
    assert not (first & second).any()
    assert first.sum() == before["gt_masks"].masks[0].sum()


def test_overlap_groups_are_transitive():
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [9, 9, 20, 20], [20, 0, 30, 10]], float)
    assert [g.tolist() for g in overlapping_groups(boxes)] == [[0, 2], [1], [3]]
    boxes[3, 0] = 19
    assert [g.tolist() for g in overlapping_groups(boxes)] == [[0, 2, 3], [1]]


def test_same_seed_same_image():
    first, again, other = (boosted(scene(), seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first["img"], again["img"])
    np.testing.assert_array_equal(first["gt_masks"].masks, again["gt_masks"].masks)
    assert not np.array_equal(first["img"], other["img"])


def test_fraction_of_changed_images():
    results = scene()
    np.random.seed(0)
    transform = InstaBoost(prob=0.25)
    changed = [transform(dict(results))["img"] is not results["img"] for _ in range(200)]
    assert 0.15 < np.mean(changed) < 0.35  # three standard deviations


def test_colours_of_half_of_the_changed_images_are_jittered():
    """Only colours: what is drawn for them comes after what moves the instances."""
    results, transform = scene(), InstaBoost(prob=1.0)
    jittered = 0
    for seed in range(60):
        plain, after = (
            boosted(results, seed),
            boosted(results, seed, color_prob=transform.color_prob),
        )
        np.testing.assert_array_equal(after["gt_masks"].masks, plain["gt_masks"].masks)
        assert after["img"].dtype == np.uint8
        jittered += not np.array_equal(after["img"], plain["img"])
    assert 15 < jittered < 45  # four standard deviations


def test_range_of_the_colours():
    """Of a plain grey image only brightness changes: by 1 to 2, in tenths, never darker."""
    plain = scene([])
    plain["img"][:] = 60
    greys = {boosted(plain, seed, color_prob=1.0)["img"][60, 80, 0] for seed in range(100)}
    assert greys == {*range(60, 121, 6)}
    plain["img"][:] = (60, 40, 20)
    images = [boosted(plain, seed, color_prob=1.0)["img"][60, 80] for seed in range(100)]
    spread = np.ptp(np.array(images, float), axis=1)
    assert spread.min() <= 2  # without saturation
    assert spread.max() > 3 * 40  # more than threefold saturation alone


def test_images_without_movable_instances():
    empty = scene([])
    assert boosted(empty)["img"].shape == empty["img"].shape
    crowd_only = scene()
    crowd_only["gt_ignore_flags"][:] = True
    np.testing.assert_array_equal(boosted(crowd_only)["img"], crowd_only["img"])
    maskless = scene()
    maskless["gt_masks"].masks[0] = 0  # a polygon of less than a pixel
    after = boosted(maskless)
    assert len(after["gt_bboxes"]) == 4
    np.testing.assert_array_equal(after["gt_bboxes"].numpy()[0], maskless["gt_bboxes"].numpy()[0])


def test_fully_occluded_instance_is_removed():
    """Two neighbours: the later one grows over the earlier one, which is a single pixel."""
    results = scene([(50, 60), (50, 60)])
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    masks[0, 60, 58] = 1
    masks[1, 50:74, 60:84] = 1
    results["gt_masks"] = BitmapMasks(masks, HEIGHT, WIDTH)
    after = boosted(results, scale=(1.2, 1.2), shift=0.0, angle=0.0)
    assert [len(after[key]) for key in ("gt_masks", "gt_bboxes", "gt_ignore_flags")] == [1, 1, 1]
    assert after["gt_bboxes_labels"].tolist() == [1]


def test_instances_that_cover_the_whole_image():
    results = scene([(0, 0)])
    results["gt_masks"].masks[:] = 1
    after = boosted(results)
    assert after["gt_bboxes"].numpy().tolist() == [[0, 0, WIDTH, HEIGHT]]


def test_polygons_become_bitmaps():
    results = scene([(30, 30)])
    square = np.array([30, 30, 54, 30, 54, 54, 30, 54], float)
    results["gt_masks"] = PolygonMasks([[square]], HEIGHT, WIDTH)
    after = boosted(results)
    assert isinstance(after["gt_masks"], BitmapMasks)
    assert after["gt_masks"].masks.any()


def test_missing_masks_raise():
    boxes_only = {key: value for key, value in scene().items() if key != "gt_masks"}
    with pytest.raises(UserError, match=r"LoadAnnotations\(with_mask=True\) before it"):
        boosted(boxes_only)


def test_real_images_keep_their_annotations(shared: Path):
    """Every other image of a COCO sample, including crowds and polygons of several parts."""
    from mmdet.datasets import CocoDataset

    with DefaultScope.overwrite_default_scope("mmdet"):
        data = CocoDataset(
            data_root=str(shared / "data" / "coco_mini"),
            ann_file="annotations/instances_val2017.json",
            data_prefix={"img": "val2017/"},
            pipeline=[
                {"type": "LoadImageFromFile"},
                {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
            ],
        )
        build = ROOT_TRANSFORMS.get("swin_dense.InstaBoost")
    assert build is InstaBoost
    np.random.seed(0)
    for i in range(0, len(data), 8):
        before = data[i]
        after = InstaBoost(prob=1.0)(copy.deepcopy(before))
        count = len(after["gt_masks"])
        assert len(before["gt_masks"]) - 2 <= count <= len(before["gt_masks"])
        assert len(after["gt_bboxes"]) == len(after["gt_bboxes_labels"]) == count
        areas = after["gt_masks"].areas
        assert (areas > 0).all()
        boxes = after["gt_bboxes"].numpy()
        height, width = after["img"].shape[:2]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= [width, height]).all()
