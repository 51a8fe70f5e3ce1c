"""The RepPoints V2 leaves: sizes, recipe, and loading of the released weights."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from leaves import load
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from swin_dense.analysis.counting import build_on_meta, count_config
from swin_dense.engine.config.own_data import apply_own_data, drop_masks

R50, SWIN_T, MASKS = (
    "reppoints_v2_r50_coco",
    "reppoints_v2_swin_t_coco",
    "mask_reppoints_v2_swin_t_coco",
)
LEAVES = (R50, SWIN_T, MASKS)

pytestmark = pytest.mark.filterwarnings("ignore")


def released(name: str) -> dict[str, torch.Tensor]:
    """State dict of the official file, on the meta device.

    The list of names and shapes comes from the official code (Swin-Transformer-Object-Detection,
    commit c7b2011): the backbone, ``BiFPN``, and ``RepPointsV2Head`` with ``CondConvMaskHead``.
    """
    lines = Path(__file__).with_name("mask_reppoints_v2_swin_t_keys.txt").read_text().splitlines()
    found = {}
    for line in lines:
        key, shape = line.split()
        sizes = [] if shape == "scalar" else [int(size) for size in shape.split("x")]
        integer = key.endswith(("index", "tracked", "interest"))
        found[key] = torch.empty(sizes, dtype=torch.int64 if integer else None, device="meta")
    if name == SWIN_T:
        only_masks = ("bbox_head.controller.", "bbox_head.mask_head.")
        found = {key: value for key, value in found.items() if not key.startswith(only_masks)}
    return found


@pytest.mark.parametrize(("name", "entries"), [(SWIN_T, 340), (MASKS, 387)])
def test_released_weights_load(name, entries):
    weights = released(name)
    assert len(weights) == entries
    model = build_on_meta(load(name))
    assert model.load_state_dict(weights, strict=True) is not None
    ours = {k: tuple(v.shape) for k, v in model.state_dict().items() if "backbone" not in k}
    theirs = {k: tuple(v.shape) for k, v in weights.items() if "backbone" not in k}
    assert ours == theirs


def test_neck_and_head_of_resnet_have_the_same_names():
    names = {key for key in released(SWIN_T) if not key.startswith("backbone")}
    assert {k for k in build_on_meta(load(R50)).state_dict() if "backbone" not in k} == names


@pytest.mark.parametrize(
    ("name", "params_m", "macs_g"), [(R50, 42, 274), (SWIN_T, 45, 283), (MASKS, 47, 292)]
)
def test_parameters_and_flops_equal_the_published_ones(name, params_m, macs_g):
    """The published numbers for masks count the head without its mask branch."""
    counts = count_config(load(name))
    assert counts.params / 1e6 == pytest.approx(params_m, rel=0.01)
    assert counts.macs / 1e9 == pytest.approx(macs_g, rel=0.01)


@pytest.mark.parametrize("name", LEAVES)
def test_recipe(name):
    cfg = load(name)
    assert (cfg.optim_wrapper.type, cfg.train_cfg.max_epochs) == ("AmpOptimWrapper", 36)
    assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ("AdamW", 1e-4)
    assert ("segm" in cfg.val_evaluator.metric) == (name == MASKS)
    model = cfg.model
    assert tuple(model.backbone.out_indices) == (1, 2, 3)
    assert (model.neck.num_outs, model.neck.num_repeat) == (5, 2)
    assert model.test_cfg.nms.to_dict() == {"type": "nms", "iou_threshold": 0.6}
    assert (model.test_cfg.nms_pre, model.test_cfg.score_thr) == (1000, 0.05)
    assert model.data_preprocessor.get("pad_mask", False) == (name == MASKS)
    if name != R50:
        assert model.backbone.init_cfg.checkpoint.endswith("swin_tiny_patch4_window7_224.pth")
        assert (model.backbone.arch, model.backbone.drop_path_rate) == ("tiny", 0.2)


@pytest.mark.parametrize("name", LEAVES)
def test_training_images_are_resized_but_not_cropped(name, tmp_path):
    cfg = load(name)
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.zeros((480, 640, 3), np.uint8))
    instance = {"bbox": [100.0, 120.0, 300.0, 400.0], "bbox_label": 3, "ignore_flag": 0}
    instance["mask"] = [[100.0, 120.0, 300.0, 120.0, 300.0, 400.0]]
    image = {"img_path": str(path), "img_id": 1, "height": 480, "width": 640}
    np.random.seed(0)
    shorts = set()
    for _ in range(10):
        with DefaultScope.overwrite_default_scope("mmdet"):
            packed = Compose(cfg.train_dataloader.dataset.pipeline)(
                {**image, "instances": [dict(instance)]}
            )
        height, width = packed["inputs"].shape[1:]
        shorts.add(height)
        assert width / height == pytest.approx(640 / 480, rel=0.01)
        assert ("masks" in packed["data_samples"].gt_instances) == (name == MASKS)
    assert shorts <= set(range(480, 961, 32 if name != MASKS else 1))
    assert max(shorts) > 800


def test_boxes_only_training_of_the_mask_variant():
    cfg = drop_masks(load(MASKS))
    assert "mask_head" not in cfg.model.bbox_head
    names = set(build_on_meta(cfg).state_dict())
    assert names == set(build_on_meta(load(SWIN_T)).state_dict())


def test_own_data_sets_the_number_of_classes(tmp_path):
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(content))
    cfg = load(MASKS)
    part = {"ann_file": "train.json", "img_dir": "images"}
    cfg.own_data = {"root": str(tmp_path), "classes": ("a", "b"), "train": part, "val": part}
    model = build_on_meta(apply_own_data(cfg))
    assert model.bbox_head.num_classes == 2
    for layer in (model.bbox_head.reppoints_cls_out, model.bbox_head.reppoints_sem_out):
        assert layer.out_channels == 2


def test_types_are_registered():
    """In a config that only imports ``swin_dense``."""
    from swin_dense.registry import MODELS

    for name in ("RepPointsV2Head", "ConditionalMaskHead", "BiFPN", "InclusiveGIoULoss"):
        assert MODELS.get(f"swin_dense.{name}").__name__ == name
