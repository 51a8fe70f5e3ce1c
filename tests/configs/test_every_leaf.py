"""Every leaf of ``configs/``: it parses, dumps, reloads, builds, trains a step and predicts."""

import copy
import re
from typing import Any

import mmengine.config.config
import numpy as np
import pytest
import torch
from leaves import CONFIGS, SIDE, load, reduced
from mmdet.testing import demo_mm_inputs
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from swin_dense.analysis.counting import build_on_meta
from swin_dense.analysis.paper import ROWS
from swin_dense.config_tree import mappings, split_datasets

LEAVES = sorted(path.stem for path in CONFIGS.glob("*.py"))

pytestmark = pytest.mark.filterwarnings("ignore")  # options of mmdet and mmseg that stay as set


def test_leaves_are_the_published_rows():
    published = {row.config for row in ROWS}
    # Those for generated shapes and for own data, and HTC++ without label maps of COCO-stuff.
    others = {name for name in LEAVES if name.endswith(("_shapes", "_own"))}
    others |= {name for name in LEAVES if name.replace("_without_semantic", "") in published}
    assert set(LEAVES) - others == published - others
    assert published <= set(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_has_a_docstring_and_inherits_from_base_only(name):
    text = (CONFIGS / f"{name}.py").read_text()
    assert re.match(r'"""\S.*\.\n?("""|\n)', text)
    bases = re.findall(r'"(\S+\.py)"', text)
    assert bases
    assert all(re.match(r"(\./|mmseg::|mmdet::)_base_/", base) for base in bases)


@pytest.mark.parametrize("name", LEAVES)
def test_dumps_reloads_and_builds(name, tmp_path, monkeypatch):
    cfg = load(name)
    # skip yapf's formatting, which takes a second
    monkeypatch.setattr(mmengine.config.config, "FormatCode", lambda text, **_: (text, None))
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == cfg.to_dict()
    params = sum(p.numel() for p in build_on_meta(cfg).parameters())
    for row in ROWS:
        if row.config == name and not row.note:
            assert params / 1e6 == pytest.approx(row.params_m, rel=0.01)


@pytest.mark.parametrize("name", LEAVES)
def test_trains_a_step_and_predicts(name):
    cfg = reduced(load(name))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).train()
    detects = cfg.default_scope == "mmdet"
    data = detection_data() if detects else segmentation_data()
    several = in_branches(data) if "detector" in cfg.model else data
    batch = model.data_preprocessor(copy.deepcopy(several), training=True)
    loss, _ = model.parse_losses(model(**batch, mode="loss"))
    assert loss.isfinite()
    loss.backward()
    # DistributedDataParallel refuses parameters without a gradient.
    assert [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        (sample, _) = model.eval().test_step(data)
    if detects:
        check_detections(sample.pred_instances, masks="segm" in cfg.val_evaluator.metric)
        # Untrained RepPoints rarely give a valid box.
        assert len(sample.pred_instances) or "reppoints" in name
    else:
        assert sample.pred_sem_seg.data.shape == (1, SIDE, SIDE)
        assert sample.seg_logits.data.isfinite().all()


def check_detections(found: Any, *, masks: bool) -> None:
    assert found.bboxes.shape == (len(found), 4)
    assert found.bboxes.isfinite().all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert ("masks" in found) == masks
    if masks:
        assert found.masks.shape == (len(found), SIDE, SIDE)


def detection_data() -> dict:
    """Two images with two boxes, their masks and a label map of things and stuff."""
    np.random.seed(0)
    shapes = [(3, SIDE, SIDE)] * 2
    options = {"num_classes": 4, "with_mask": True, "with_semantic": True, "use_box_type": True}
    data = demo_mm_inputs(2, shapes, num_items=[2, 2], sem_seg_output_strides=1, **options)
    for sample in data["data_samples"]:
        sample.set_metainfo({"scale_factor": (1.0, 1.0)})
    return data


def in_branches(data: dict) -> dict:
    """The same images with labels, and without for a teacher and its student."""
    for sample in data["data_samples"]:
        sample.set_metainfo({"homography_matrix": np.eye(3, dtype=np.float32)})
    branches = ("sup", "unsup_teacher", "unsup_student")
    return {key: dict.fromkeys(branches, value) for key, value in data.items()}


def segmentation_data() -> dict:
    """Two images with a label map of five classes."""
    images = [torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8) for _ in range(2)]
    meta = {"img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE)}
    labels = PixelData(data=torch.arange(SIDE * SIDE).reshape(1, SIDE, SIDE) % 5)
    samples = [SegDataSample(gt_sem_seg=labels.clone(), metainfo=meta) for _ in images]
    return {"inputs": images, "data_samples": samples}


@pytest.mark.parametrize("name", LEAVES)
def test_regions_stay_in_float32(name):
    kinds = {str(node.get("type")) for node in mappings(load(name).model)}
    assert "SingleRoIExtractor" not in kinds


@pytest.mark.parametrize("name", LEAVES)
def test_pictures_of_a_test_have_the_ground_truth(name):
    (dataset,) = split_datasets(load(name), "test")
    assert "LoadAnnotations" in [step["type"].split(".")[-1] for step in dataset["pipeline"]]
