"""Every config with masks: the samples and losses of our transforms are those of mmdet's."""

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from leaves import CONFIGS, load
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from pycocotools import mask as coco_mask
from test_every_leaf import reduced

from swin_dense import config_tree
from swin_dense.benchmarks.pipeline import same_sample, with_mmdet_transforms
from swin_dense.datasets.masks import CroppedMasks

pytestmark = pytest.mark.filterwarnings("ignore")  # options of mmdet that stay as its configs set


def loads_masks(name: str) -> bool:
    steps = [
        s for pipeline in config_tree.pipelines(load(name)) for s in config_tree.steps(pipeline)
    ]
    return any(step.get("with_mask") for step in steps)


LEAVES = sorted(path.stem for path in CONFIGS.glob("*.py") if loads_masks(path.stem))


def training_pipeline(name: str) -> list[Any]:
    return load(name).train_dataloader.dataset.pipeline


def distinct(names: list[str]) -> list[str]:
    """One config for each training pipeline."""
    return list({str(training_pipeline(name)): name for name in reversed(names)}.values())


@pytest.fixture
def image(tmp_path: Path) -> dict[str, Any]:
    """A picture of noise with a polygon of two parts, a disc as run lengths, and a crowd."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "a.png"), rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    cv2.imwrite(str(tmp_path / "map.png"), rng.integers(0, 183, (120, 160), dtype=np.uint8))
    star = [60.3, 20.7, 90.5, 99.1, 20.2, 50.4, 110.9, 44.6, 31.1, 100.2]
    disc = cv2.circle(np.zeros((120, 160), np.uint8), (110, 70), 30, 1, -1)
    disc_rle = coco_mask.encode(np.asfortranarray(disc))
    crowd = {"size": [120, 160], "counts": [500, 40, 80, 41, 79, 4000, 120 * 160 - 4740]}
    masks = [
        ([20, 20, 111, 101], [star, [5.0, 5, 15, 5, 15, 15]]),
        ([80, 40, 141, 101], {"size": [120, 160], "counts": disc_rle["counts"].decode()}),
        ([4, 0, 40, 120], crowd),
    ]
    found = [
        {"bbox": box, "bbox_label": i, "ignore_flag": int(mask is crowd), "mask": mask}
        for i, (box, mask) in enumerate(masks)
    ]
    size = {"height": 120, "width": 160, "seg_map_path": str(tmp_path / "map.png")}
    return {"img_path": str(tmp_path / "a.png"), "img_id": 1, **size, "instances": found}


def run(pipeline: list[Any], image: dict[str, Any], seed: int) -> dict[str, Any]:
    np.random.seed(seed)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return Compose(copy.deepcopy(pipeline))(copy.deepcopy(image))


def test_configs_load_cropped_masks_by_default():
    assert len(LEAVES) > 15
    for name in LEAVES:
        for pipeline in config_tree.pipelines(load(name)):
            for step in config_tree.steps(pipeline):
                assert not step.get("with_mask") or step.type == "swin_dense.LoadAnnotations", name


@pytest.mark.parametrize("name", distinct(LEAVES))
def test_samples_equal_mmdets(name, image):
    ours = training_pipeline(name)
    theirs = with_mmdet_transforms(ours)
    assert theirs != ours
    for seed in range(4):
        one, other = run(ours, image, seed), run(theirs, image, seed)
        assert isinstance(one["data_samples"].gt_instances.masks, CroppedMasks)
        assert same_sample(one, other)


@pytest.mark.parametrize("name", distinct([n for n in LEAVES if n.endswith("_coco")]))
def test_samples_of_real_images_equal_mmdets(name, shared):
    cfg = load(name)
    dataset = cfg.train_dataloader.dataset
    dataset.update(data_root=f"{shared}/data/coco_mini/", indices=8)
    for step in dataset.pipeline:
        step.pop("with_seg", None)  # coco_mini has no label maps of stuff
    with DefaultScope.overwrite_default_scope("mmdet"):
        pair = [DATASETS.build(one) for one in (dataset, with_mmdet_transforms(dataset))]
    for i in range(8):
        samples = []
        for one in pair:
            np.random.seed(i)
            samples.append(one[i])
        assert same_sample(*samples)


METHODS = ["mask_rcnn_swin_t_coco", "cascade_swin_t_coco", "htc_pp_swin_b_coco"]
METHODS += ["mask_reppoints_v2_swin_t_coco"]


@pytest.mark.parametrize("name", METHODS)
def test_losses_equal_mmdets(name, image):
    cfg = reduced(load(name))
    small = {"type": "Resize", "scale": (128, 96), "keep_ratio": True}
    resizing = ("RandomChoice", "RandomChoiceResize", "RandomResize")
    pipeline = [small if step.type in resizing else step for step in training_pipeline(name)]
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model).train()
    losses = []
    for steps in (pipeline, with_mmdet_transforms(pipeline)):
        data = pseudo_collate([run(steps, image, seed) for seed in (1, 2)])
        losses.append(losses_of(model, data))
    ours, theirs = losses
    assert ours.keys() == theirs.keys()
    assert any("mask" in key for key in ours)
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key
        assert value.isfinite().all()
    assert all(value > 0 for key, value in ours.items() if "loss_mask" in key)


def losses_of(model: Any, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All losses of a training step, flat by name, with the same random numbers in each call."""
    torch.manual_seed(0)
    np.random.seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"), torch.no_grad():
        _, values = model.parse_losses(
            model(**model.data_preprocessor(data, training=True), mode="loss")
        )
    return values


def test_validation_samples_equal_mmdets(image):
    ours = load("mask_rcnn_swin_t_coco").val_dataloader.dataset.pipeline
    one, other = (run(steps, image, 0) for steps in (ours, with_mmdet_transforms(ours)))
    assert same_sample(one, other)
