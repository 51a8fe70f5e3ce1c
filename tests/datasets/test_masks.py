"""Masks cropped to their boxes have the pixels of mmdet's ``BitmapMasks``, bit for bit."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_cases import Rng, annotation, blob, polygon
from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from swin_dense.datasets.masks import CroppedMasks, crop_rle

HEIGHT, WIDTH = 48, 64
SEEDS = st.integers(0, 2**32 - 1)
Pair = tuple[CroppedMasks, BitmapMasks]


def rle_of(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    if isinstance(segmentation, list):
        parts = [np.array(part) for part in segmentation]
        return coco_mask.merge(coco_mask.frPyObjects(parts, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def assert_same_pixels(rle: dict[str, Any]) -> None:
    (x1, y1, x2, y2), pixels = crop_rle(rle)
    expected = coco_mask.decode(rle)
    drawn = np.zeros_like(expected)
    drawn[y1:y2, x1:x2] = pixels
    assert pixels.dtype == expected.dtype == np.uint8
    np.testing.assert_array_equal(drawn, expected)
    if expected.any():  # the smallest box
        edges = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
        assert all(edge.any() for edge in edges)
    else:
        assert pixels.size == 0


def pair(rng: Rng, count: int = 4, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Pair:
    rles = [rle_of(annotation(rng, *size), *size) for _ in range(count)]
    return (
        CroppedMasks.from_rles(rles, *size),
        BitmapMasks([coco_mask.decode(rle) for rle in rles], *size),
    )


def assert_same(ours: BitmapMasks, theirs: BitmapMasks) -> None:
    assert isinstance(ours, BitmapMasks)
    assert (len(ours), ours.height, ours.width) == (len(theirs), theirs.height, theirs.width)
    for one, other in ((ours.to_ndarray(), theirs.to_ndarray()), (ours.masks, theirs.masks)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@settings(deadline=None, max_examples=300)
@given(SEEDS, st.integers(1, 90), st.integers(1, 90))
def test_pixels_of_generated_annotations(seed, height, width):
    assert_same_pixels(
        rle_of(annotation(np.random.default_rng(seed), height, width), height, width)
    )


@pytest.mark.parametrize(
    "corners",
    [
        [0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT],  # the whole image
        [-9, -9, 99, -9, 99, 99, -9, 99],  # more than that
        [-20, -20, -5, -20, -5, -5],  # outside of it
        [WIDTH + 5, 3, WIDTH + 9, 3, WIDTH + 9, 9],
        [10, 0, 20, 0, 20, HEIGHT, 10, HEIGHT],  # from the top to the bottom
        [10.2, 10.2, 10.3, 10.2, 10.3, 10.3],  # smaller than a pixel
        [5, 5, 5, 5, 5, 5],  # a point
        [0] * 6,  # mmdet's mask for annotations without a valid one
        [3, 3, 30, 3, 12, 3],  # a line
        [WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT - 1, WIDTH, HEIGHT, WIDTH - 1, HEIGHT],  # last pixel
        [12.1, 12.7, 40.3, 12.7, 40.3, 30.9, 12.1, 30.9],  # ties of pycocotools' grid of fifths
    ],
)
def test_pixels_of_special_polygons(corners):
    assert_same_pixels(rle_of([[float(c) for c in corners]], HEIGHT, WIDTH))


def run_lengths_of(counts: list[int]) -> dict[str, Any]:
    return coco_mask.frPyObjects({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)


AREA = HEIGHT * WIDTH


@pytest.mark.parametrize(
    "counts",
    [
        [AREA],  # empty
        [0, AREA],  # full
        [AREA - 1, 1],
        [0, 1, AREA - 1],
        [HEIGHT - 2, 4, AREA - HEIGHT - 2],  # over the end of a column
        [7, 0, 5, 9, AREA - 21],  # runs of no pixels
        [0, 0, 7, 3, AREA - 10],
        [5, 6, 0, 7, AREA - 18, 0],
    ],
)
def test_pixels_of_special_run_lengths(counts):
    (x1, y1, x2, y2), pixels = crop_rle(run_lengths_of(counts))
    expected = coco_mask.decode(run_lengths_of(counts))
    drawn = np.zeros_like(expected)
    drawn[y1:y2, x1:x2] = pixels
    np.testing.assert_array_equal(drawn, expected)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(st.just(0), st.integers(1, 200)), max_size=12))
def test_pixels_of_truncated_encodings_are_empty(counts):
    expected = np.zeros(AREA, np.uint8)
    for i, end in enumerate(np.cumsum(counts)):
        expected[end - counts[i] : end] = i % 2
    masks = CroppedMasks.from_rles([run_lengths_of(counts)], HEIGHT, WIDTH).masks
    np.testing.assert_array_equal(masks[0].ravel(order="F"), expected)


@pytest.mark.parametrize(
    "counts",
    ["o", "PPP", "Q", "5!", "~5", "ooooooo0", b"\xff", run_lengths_of([AREA, 5])["counts"]],
)
def test_what_is_no_encoding(counts):
    with pytest.raises(ValueError, match="not a run-length encoding of 48 x 64 pixels"):
        crop_rle({"size": [HEIGHT, WIDTH], "counts": counts})


def test_pixels_of_real_annotations(shared):
    for split in ("train", "val"):
        folder = shared / "data" / "coco_mini" / "annotations"
        file = json.loads(Path(folder, f"instances_{split}2017.json").read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in file["images"]}
        crowds = [one for one in file["annotations"] if one["iscrowd"]]
        assert crowds
        for one in crowds + file["annotations"][::3]:
            assert_same_pixels(rle_of(one["segmentation"], *sizes[one["image_id"]]))


def random_change(rng: Rng, height: int, width: int) -> Callable[[BitmapMasks], BitmapMasks]:
    """A change that detectors make to masks of this size, with random arguments."""
    shape = int(rng.integers(1, 100)), int(rng.integers(1, 100))
    larger = height + int(rng.integers(9)), width + int(rng.integers(9))
    direction = str(rng.choice(["horizontal", "vertical", "diagonal"]))
    fill = int(rng.random() < 0.2)
    x, y = rng.integers(0, width), rng.integers(0, height)
    box = np.array([x, y, x + rng.integers(1, width + 9), y + rng.integers(1, height + 9)])
    scale = (int(rng.integers(9, 120)), int(rng.integers(9, 120)))
    factor = 0.7
    if not all(min(mmcv.rescale_size((width, height), s)) for s in (scale, factor)):
        scale, factor = (width, height), 1.0  # OpenCV makes no image of no pixels
    changes: list[Callable[[BitmapMasks], BitmapMasks]] = [
        lambda masks: masks.resize(shape),
        lambda masks: masks.rescale(scale),
        lambda masks: masks.rescale(factor),
        lambda masks: masks.flip(direction),
        lambda masks: masks.pad(larger, fill),
        lambda masks: masks.crop(box),
        lambda masks: masks[np.flatnonzero(np.arange(len(masks)) % 3 != 1)],
    ]
    return changes[rng.choice(len(changes), p=[0.2, 0.15, 0.05, 0.2, 0.1, 0.2, 0.1])]


@settings(deadline=None, max_examples=150)
@given(SEEDS, st.integers(0, 5))
def test_any_sequence_of_changes(seed, count):
    rng = np.random.default_rng(seed)
    ours, theirs = pair(rng, count)
    assert_same(ours, theirs)
    for _ in range(rng.integers(1, 7)):
        change = random_change(rng, ours.height, ours.width)
        ours, theirs = change(ours), change(theirs)
        assert_same(ours, theirs)
    if isinstance(ours, CroppedMasks):
        gathered = ours._gathered("cpu") if len(ours) else torch.from_numpy(ours.to_ndarray())
        np.testing.assert_array_equal(gathered.numpy(), theirs.masks)


RARE: list[Callable[[BitmapMasks], BitmapMasks]] = [
    lambda m: m.translate((40, 70), 5),
    lambda m: m.translate((HEIGHT, WIDTH), -3, "vertical", 1, "nearest"),
    lambda m: m.shear((m.height, m.width), 0.2),
    lambda m: m.rotate((m.height, m.width), 30.0),
    lambda m: m.expand(80, 90, 7, 3),
    lambda m: m.resize((30, 20), "bilinear"),
    lambda m: m.cat([m, m[:2]]),
    lambda m: m[1],
    lambda m: m[::-1],
    lambda m: m[np.array([True, False, False, True])],
    lambda m: m[[2, 2]],
    lambda m: m[np.zeros(0, int)],
    lambda m: pickle.loads(pickle.dumps(m.flip())),
    lambda m: copy.deepcopy(m),
    lambda m: type(m)(m.masks, m.height, m.width),
    lambda m: type(m)(list(m), m.height, m.width),
    lambda m: type(m)([], m.height, m.width),
    lambda m: InstanceData(masks=m)[np.array([3, 1])].masks,
]


@pytest.mark.parametrize("change", RARE)
def test_changes_that_few_transforms_make(change):
    for before in (lambda m: m, lambda m: m.flip().resize((HEIGHT, WIDTH + 9)).crop(BOX)):
        ours, theirs = (before(masks) for masks in pair(np.random.default_rng(3)))
        assert_same(change(ours), change(theirs))


BOX = np.array([3, 2, 3 + WIDTH, 2 + HEIGHT])


def test_what_consumers_read():
    ours, theirs = (masks.flip() for masks in pair(np.random.default_rng(5)))
    np.testing.assert_array_equal(ours.areas, theirs.areas)
    assert ours.areas.dtype == theirs.areas.dtype
    assert torch.equal(ours.get_bboxes("hbox").tensor, theirs.get_bboxes("hbox").tensor)
    for dtype in (torch.uint8, torch.bool, torch.float32):
        one, other = (masks.to_tensor(dtype, "cpu") for masks in (ours, theirs))
        assert one.dtype == dtype
        assert torch.equal(one, other)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_pixels_change_by_assignment_only():
    ours, theirs = pair(np.random.default_rng(7))
    with pytest.raises(ValueError, match="read-only"):
        ours.masks[0] = 1  # would be lost
    hidden = np.zeros((HEIGHT, WIDTH), bool)
    hidden[10:30, 10:30] = True
    for masks in (ours, theirs):  # as in mmdet's CopyPaste
        masks.masks = np.where(hidden, 0, masks.masks)
    assert_same(ours, theirs)
    full = ours.to_ndarray()
    full[:] = 1
    assert_same(ours, theirs)


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.booleans(), st.sampled_from([14, 28, (7, 9)]))
def test_mask_targets(seed, soft, size):
    rng = np.random.default_rng(seed)
    change = random_change(rng, HEIGHT, WIDTH)
    images = [[change(masks) for masks in pair(rng, count)] for count in (4, 2)]
    boxes, objects = [], []
    for ours, _ in images:
        corners = rng.uniform(-5, 1.2, (6, 2)) * (ours.width, ours.height)
        sides = rng.uniform(0, 1, (6, 2)) ** 2 * (ours.width, ours.height)
        boxes.append(torch.tensor(np.hstack([corners, corners + sides]), dtype=torch.float32))
        objects.append(torch.tensor(rng.integers(0, max(len(ours), 1), 6)))
    cfg = ConfigDict(mask_size=size, soft_mask_target=soft)
    targets = [
        mask_target([b.clone() for b in boxes], objects, list(masks), cfg)
        for masks in zip(*images, strict=True)
    ]
    assert torch.equal(*targets)


def test_mask_targets_without_boxes_or_objects():
    ours, theirs = pair(np.random.default_rng(0))
    none = np.zeros((0, 4), np.float32), (14, 14), np.zeros(0, int)
    assert_same(ours.crop_and_resize(*none), theirs.crop_and_resize(*none))
    box = np.array([[1, 2, 30, 40]], np.float32), (14, 14), np.zeros(1, int)
    assert_same(ours[:0].crop_and_resize(*box), theirs[:0].crop_and_resize(*box))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_mask_targets_on_a_gpu():
    ours, theirs = (masks.resize((200, 300)) for masks in pair(np.random.default_rng(1)))
    assert torch.equal(*(m.to_tensor(torch.uint8, "cuda") for m in (ours, theirs)))
    boxes = torch.tensor([[1.0, 2, 250, 190], [30, 40, 90, 95]], device="cuda")
    inds = torch.tensor([3, 1], device="cuda")
    assert_same(*(m.crop_and_resize(boxes, (28, 28), inds, "cuda") for m in (ours, theirs)))


def test_shapes_that_mmdet_does_not_support():
    ours, theirs = pair(np.random.default_rng(0))
    outside = np.array([WIDTH, 0, WIDTH + 5, 5])
    assert_same(ours.crop(outside), theirs.crop(outside))
    for masks in (ours, theirs):
        with pytest.raises(ValueError, match="reshape"):
            masks.pad((HEIGHT - 1, WIDTH))


def test_memory_is_that_of_the_boxes():
    rng = np.random.default_rng(0)
    size = (480, 640)
    rles = [rle_of([polygon(rng, *size)], *size) for _ in range(20)]
    ours = CroppedMasks.from_rles(rles, *size)
    theirs = BitmapMasks([coco_mask.decode(rle) for rle in rles], *size)
    for change in (lambda m: m, lambda m: m.flip(), lambda m: m.resize((800, 1067))):
        ours, theirs = change(ours), change(theirs)
        boxes = sum((box[2] - box[0]) * (box[3] - box[1]) for box in map(box_of, rles))
        index = 4 * (ours.height + ours.width)
        assert len(pickle.dumps(ours)) < boxes + index + 200 * len(rles) + 1000
        assert len(pickle.dumps(theirs)) > len(rles) * ours.height * ours.width
    small = ours.resize((48, 64))  # large photos: pixels that are not shown are dropped
    assert len(pickle.dumps(small)) < boxes / 50 + 200 * len(rles) + 2000


def box_of(rle: dict[str, Any]) -> tuple[int, ...]:
    return crop_rle(rle)[0]


@pytest.mark.parametrize("old", [1, 2, 3, 7, 333, 480, 640, 1333])
@pytest.mark.parametrize("new", [1, 2, 5, 97, 334, 400, 800, 1067, 1600])
def test_resizing_takes_opencvs_pixels(old, new):
    """At sizes of real images, where a rounding rule of our own could differ."""
    rng = np.random.default_rng(0)
    mask = np.zeros((old, 40), np.uint8)
    mask[rng.integers(0, old, old // 2 + 1)] = blob(rng, old, 40)[:1] | 1
    for full, shape in ((mask, (new, 60)), (mask.T.copy(), (60, new))):
        expected: NDArray[np.uint8] = mmcv.imresize(full, shape[::-1], interpolation="nearest")
        resized = CroppedMasks(full[None], *full.shape).resize(shape).masks[0]
        np.testing.assert_array_equal(resized, expected)
