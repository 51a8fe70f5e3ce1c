"""Our transforms give the samples that mmdet's of the same names give."""

import copy
from typing import Any

import cv2
import numpy as np
import pytest
from mask_cases import instances
from mmcv.transforms import Compose
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.registry import TRANSFORMS, DefaultScope

from swin_dense.benchmarks.pipeline import same_sample
from swin_dense.datasets.masks import CroppedMasks
from swin_dense.errors import UserError

SIZE = (60, 80)
LOAD: dict[str, Any] = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}


@pytest.fixture
def image(tmp_path) -> dict[str, Any]:
    """An image of noise with eight instances, as from a data set."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    size = {"height": SIZE[0], "width": SIZE[1]}
    return {"img_path": str(path), "img_id": 1, **size, "instances": instances(rng, 8, *SIZE)}


def run(image: dict[str, Any], *steps: dict[str, Any], ours: bool) -> dict[str, Any]:
    """The results of loading the image and of some steps, ours or mmdet's."""
    names = ("LoadAnnotations", "RandomFlip", "PackDetInputs")
    pipeline = [{"type": "LoadImageFromFile"}, *copy.deepcopy(steps)]
    for step in pipeline:
        if ours and step["type"] in names:
            step["type"] = f"swin_dense.{step['type']}"
    np.random.seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return Compose(pipeline)(copy.deepcopy(image))


def assert_same_masks(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    masks, expected = ours["gt_masks"], theirs["gt_masks"]
    assert isinstance(masks, CroppedMasks)
    np.testing.assert_array_equal(masks.to_ndarray(), expected.to_ndarray())
    assert masks.to_ndarray().dtype == expected.to_ndarray().dtype
    np.testing.assert_array_equal(ours["gt_ignore_flags"], theirs["gt_ignore_flags"])


INVALID = [[[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [], {"size": [60, 80]}, {"counts": [4800]}]


@pytest.mark.parametrize("invalid", [None, *INVALID])
def test_loaded_masks(image, invalid):
    """An annotation without a valid mask is ignored and has an empty one, as in mmdet."""
    if invalid is not None:
        image["instances"][2]["mask"] = invalid
    ours, theirs = (run(image, LOAD, ours=ours) for ours in (True, False))
    assert_same_masks(ours, theirs)
    assert ours["gt_ignore_flags"].sum() == (2 if invalid is None else 3)


def test_images_without_instances(image):
    image["instances"] = []
    resize = {"type": "Resize", "scale": (40, 30), "keep_ratio": True}
    ours, theirs = (run(image, LOAD, resize, ours=ours) for ours in (True, False))
    assert_same_masks(ours, theirs)
    assert len(ours["gt_masks"]) == 0


def test_polygons_stay_polygons(image):
    for instance in image["instances"]:
        instance["mask"] = [[1.0, 2, 30, 4, 50, 60]]
    assert isinstance(run(image, {**LOAD, "poly2mask": False}, ours=True)["gt_masks"], PolygonMasks)


def test_masks_of_another_size_are_left_to_mmdet(image):
    """Run lengths of another size than the image's: mmdet rejects them, or pixels are mixed up."""
    for instance in image["instances"]:
        instance["mask"] = {"size": [80, 60], "counts": [9, 100, 4800 - 109]}
    ours, theirs = (run(image, LOAD, ours=ours)["gt_masks"] for ours in (True, False))
    assert type(ours) is BitmapMasks
    np.testing.assert_array_equal(ours.masks, theirs.masks)
    image["instances"][0]["mask"] = {"size": [30, 40], "counts": [1200]}
    for one in (True, False):
        with pytest.raises(ValueError, match="same shape"):
            run(image, LOAD, ours=one)


def test_a_broken_encoding_names_its_image(image):
    image["instances"][5]["mask"] = {"size": list(SIZE), "counts": "Q!"}
    with pytest.raises(
        UserError, match=r"a mask of \S*a\.png is not a run-length encoding of 60 x"
    ):
        run(image, LOAD, ours=True)


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
@pytest.mark.parametrize("channels", ["color", "grayscale", "float"])
def test_flipped_images(image, direction, channels):
    load = {"type": "LoadImageFromFile", "color_type": "color"}
    if channels == "grayscale":
        load["color_type"] = channels
    load["to_float32"] = channels == "float"
    flip = {"type": "RandomFlip", "prob": 1.0, "direction": direction}
    pack = {"type": "PackDetInputs"}
    ours, theirs = (run(image, load, LOAD, flip, pack, ours=ours) for ours in (True, False))
    assert same_sample(ours, theirs)
    assert ours["inputs"].is_contiguous()
    flipped = run(image, load, LOAD, flip, ours=True)["img"]
    assert flipped.flags.c_contiguous or channels == "float"


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1), (*SIZE, 3), (*SIZE, 7)])
@pytest.mark.parametrize("view", [np.asarray, np.flipud, np.fliplr, lambda a: a[5:40, 9:50]])
def test_packed_images(shape, view):
    """Images of any number of channels, also parts and mirror images of larger arrays."""
    results = {"img": view(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))}
    ours, theirs = (
        TRANSFORMS.build({"type": f"{scope}.PackDetInputs"})(results)
        for scope in ("swin_dense", "mmdet")
    )
    assert ours["inputs"].is_contiguous()
    assert same_sample(ours, theirs)
    assert "img" in results


CHAINS = {
    "crop": [{"type": "RandomCrop", "crop_size": (40, 50), "allow_negative_crop": True}],
    "recomputed boxes": [{"type": "RandomCrop", "crop_size": (40, 50), "recompute_bbox": True}],
    "pad and expand": [{"type": "Pad", "size": (90, 100)}, {"type": "Expand", "prob": 1.0}],
    "resize": [{"type": "Resize", "scale": (160, 100), "keep_ratio": False}],
    "shrink": [{"type": "Resize", "scale": (31, 33), "keep_ratio": True}],
    "translate": [{"type": "TranslateX", "prob": 1.0, "level": 5}],
    "rotate": [{"type": "Rotate", "prob": 1.0, "level": 5}],
    "shear": [{"type": "ShearY", "prob": 1.0, "level": 5}],
    "min iou": [{"type": "MinIoURandomCrop"}],
    "filter": [{"type": "FilterAnnotations", "min_gt_bbox_wh": (9, 9), "by_mask": True}],
    "boost": [{"type": "swin_dense.InstaBoost", "prob": 1.0}],
}


@pytest.mark.parametrize("name", CHAINS)
def test_other_transforms_of_mmdet(image, name):
    resize = {"type": "RandomResize", "scale": [(90, 60), (160, 120)], "keep_ratio": True}
    flip = {"type": "RandomFlip", "prob": 0.5}
    for steps in ([*CHAINS[name], resize, flip], [flip, resize, *CHAINS[name]]):
        steps = [LOAD, *steps, {"type": "PackDetInputs", "meta_keys": ("img_shape", "flip")}]
        ours, theirs = (run(image, *steps, ours=ours) for ours in (True, False))
        assert same_sample(ours, theirs)
        assert "masks" in theirs["data_samples"].gt_instances


def test_same_sample_sees_differences(image):
    pack = {"type": "PackDetInputs"}
    sample = run(image, LOAD, pack, ours=True)
    assert same_sample(sample, run(image, LOAD, pack, ours=True))
    for change in ("mask", "box", "pixel", "meta"):
        other = run(image, LOAD, pack, ours=False)
        instances = other["data_samples"].gt_instances
        if change == "mask":
            instances.masks.masks[0, 0, 0] ^= 1
        elif change == "box":
            instances.bboxes.tensor[0, 0] += 1e-4
        elif change == "pixel":
            other["inputs"][0, 0, 0] ^= 1
        else:
            other["data_samples"].set_metainfo({"flip": True})
        assert not same_sample(sample, other), change
