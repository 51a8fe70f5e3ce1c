"""Test-time augmentation of boxes and masks."""

import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn import functional as F

from swin_dense.models.detectors import InstanceTTAModel

HEIGHT, WIDTH = 48, 64
CONFIG = """
_base_ = 'mmdet::{base}.py'
model = dict(
    backbone=dict(
        _delete_=True, type='swin_dense.SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1), window_size=3),
    neck=dict(in_channels=[8, 16, 32, 64]),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(max_per_img=5, score_thr=0.0)))
"""
BASES = {
    "mask": "_base_/models/mask-rcnn_r50_fpn",
    "cascade": "_base_/models/cascade-mask-rcnn_r50_fpn",
    "htc": "htc/htc_r50_fpn_1x_coco",
}


@pytest.fixture(params=BASES, scope="module")
def detector(request, tmp_path_factory) -> nn.Module:
    path = tmp_path_factory.mktemp("configs") / "config.py"
    path.write_text(CONFIG.replace("{base}", BASES[request.param]))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(Config.fromfile(path).model).eval()


def view(image, scale=1.0, flip=False):
    """A view of an image as a data loader returns it: ``(inputs, data sample)``."""
    height, width = int(HEIGHT * scale), int(WIDTH * scale)
    image = F.interpolate(image[None], (height, width), mode="bilinear")[0]
    meta = {
        "img_shape": (height, width),
        "ori_shape": (HEIGHT, WIDTH),
        "scale_factor": (scale, scale),
        "flip": flip,
        "flip_direction": "horizontal" if flip else None,
    }
    return image.flip(-1) if flip else image, DetDataSample(metainfo=meta)


def batch(*views):
    """One image; lists over views of lists over images."""
    return {
        "inputs": [[image] for image, _ in views],
        "data_samples": [[sample] for _, sample in views],
    }


def merging(detector):
    nms = {"type": "nms", "iou_threshold": 0.5}
    module = copy.deepcopy(detector)
    return InstanceTTAModel(module=module, tta_cfg={"nms": nms, "max_per_img": 5}).eval()


@pytest.fixture
def image():
    return torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 255


def test_one_view_equals_the_plain_prediction(detector, image):
    inputs, sample = view(image)
    merged = merging(detector).test_step(batch((inputs, sample)))[0].pred_instances
    plain = detector.test_step({"inputs": [inputs], "data_samples": [sample]})[0].pred_instances
    assert len(plain) == 5
    torch.testing.assert_close(merged.bboxes, plain.bboxes)
    torch.testing.assert_close(merged.scores, plain.scores)
    assert merged.labels.tolist() == plain.labels.tolist()
    # Probabilities are rounded to 1/255: only pixels that close to the threshold may differ.
    assert (merged.masks != plain.masks).float().mean() < 0.02


def test_flipped_view_of_the_flipped_image_equals_the_original(detector, image):
    """Undoing the flip in a view's metadata gives the same boxes and masks."""
    straight, mirrored = view(image), view(image.flip(-1), flip=True)
    assert torch.equal(straight[0], mirrored[0])
    model = merging(detector)
    a = model.test_step(batch(straight))[0].pred_instances
    b = model.test_step(batch(mirrored))[0].pred_instances
    x1, x2 = WIDTH - a.bboxes[:, 2], WIDTH - a.bboxes[:, 0]
    torch.testing.assert_close(b.bboxes[:, 0::2], torch.stack([x1, x2], 1))
    assert torch.equal(b.masks, a.masks.flip(-1))


@pytest.mark.parametrize("direction", ["vertical", "diagonal"])
def test_other_flip_directions_are_undone(detector, image, direction):
    axes = {"vertical": (-2,), "diagonal": (-2, -1)}[direction]
    _, sample = view(image, flip=True)
    sample.set_metainfo({"flip_direction": direction})
    model = merging(detector)
    a = model.test_step(batch(view(image)))[0].pred_instances
    b = model.test_step(batch((image, sample)))[0].pred_instances
    assert torch.equal(b.masks, a.masks.flip(axes))
    torch.testing.assert_close(b.bboxes[:, 1], HEIGHT - a.bboxes[:, 3])


def test_masks_are_averaged_over_views(detector, image, monkeypatch):
    """All views have the same weight, at the size of the image."""
    model = merging(detector)
    values = iter([0.9, 0.3, 0.2])
    monkeypatch.setattr(
        model,
        "_mask_probabilities",
        lambda instances, *_: torch.full((len(instances), HEIGHT, WIDTH), next(values)),
    )
    views = [view(image), view(image, scale=1.5), view(image, flip=True)]
    masks = model.test_step(batch(*views))[0].pred_instances.masks
    assert masks.shape == (5, HEIGHT, WIDTH)
    assert not masks.any()  # the mean is 0.47


def test_views_of_several_scales(detector, image):
    views = [view(image, s, f) for s in (0.75, 1.0, 1.5) for f in (False, True)]
    result = merging(detector).test_step(batch(*views))[0].pred_instances
    assert result.masks.shape == (len(result), HEIGHT, WIDTH)
    assert result.masks.dtype == torch.bool
    assert len(result) == 5
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)


def test_boxes_of_a_detector_without_masks(detector, image):
    model = copy.deepcopy(detector)
    model.roi_head.mask_head = None
    nms = {"type": "nms", "iou_threshold": 0.5}
    merging = InstanceTTAModel(module=model, tta_cfg={"nms": nms, "max_per_img": 3}).eval()
    views = batch(view(image), view(image, flip=True))
    result = merging.test_step(views)[0].pred_instances
    assert sorted(result.keys()) == ["bboxes", "labels", "scores"]
    assert len(result) == 3


def test_no_boxes(detector, image):
    model = merging(detector)
    model.module.roi_head.test_cfg.score_thr = 2.0
    result = model.test_step(batch(view(image), view(image, flip=True)))[0].pred_instances
    assert result.masks.shape == (0, HEIGHT, WIDTH)
