"""Detectors as graphs of fixed sizes find what mmdet finds, image by image, before any tracing."""

import pytest
import torch
from leaves import load, reduced
from mmengine.registry import MODELS, DefaultScope

from swin_dense.errors import UserError
from swin_dense.exporting.comparison import error_of_masks, same_detections
from swin_dense.exporting.detections import NOTHING, soft_suppress, suppress, top_scores
from swin_dense.exporting.graphs import make_graph

pytestmark = pytest.mark.filterwarnings("ignore")  # options of mmdet that stay as set

# One of each method, and HTC++ with its soft-NMS.
DETECTORS = ["atss_swin_t_coco", "cascade_swin_t_coco", "htc_pp_swin_b_coco"]
DETECTORS += ["mask_rcnn_swin_t_coco", "mask_reppoints_v2_swin_t_coco", "sparse_rcnn_swin_t_coco"]
DETECTORS += ["soft_teacher_swin_t_coco"]


def graph_of(name: str, **test_cfg):
    torch.manual_seed(0)
    cfg = reduced(load(name))
    with DefaultScope.overwrite_default_scope("mmdet"):
        return make_graph(cfg, MODELS.build(cfg.model).eval(), "model")


def images(*size) -> torch.Tensor:
    return torch.rand(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize("name", DETECTORS)
@torch.no_grad()
def test_graph_finds_what_the_detector_finds(name):
    graph = graph_of(name)
    for size in [(2, 96, 128), (1, 75, 133)]:  # whole multiples of 32, and padded
        found = graph(images(*size))
        names = dict(zip(graph.names(len(found)), found, strict=True))
        assert names["boxes"].shape == (size[0], 10, 4)
        assert names["labels"].dtype == torch.int64
        assert (names["scores"] > 0).any()
        assert "no box" in graph.compared or size[0] == 1
        assert graph.error(found, images(*size)) < 1e-5
        assert int(graph.compared.split()[0]) > 0
        # What is compared is compared: another box is noticed.
        moved = [names["boxes"] + 0.005 * max(size), *found[1:]]
        assert graph.error(moved, images(*size)) > 1e-3


@torch.no_grad()
def test_masks_are_compared():
    graph = graph_of("mask_rcnn_swin_t_coco")
    image = images(1, 96, 128)
    *rest, masks = graph(image)
    assert masks.shape[2:] == (28, 28)
    assert graph.error([*rest, masks], image) < 1e-5
    assert graph.error([*rest, 1 - masks], image) > 1e-4


def test_other_detectors_and_suppressions_are_refused():
    graph = graph_of("atss_swin_t_coco")
    graph.detector.bbox_head.test_cfg.nms.type = "nms_match"
    with pytest.raises(UserError, match=r"boxes are chosen by .*nms_match"), torch.no_grad():
        graph(images(1, 160, 160))
    type(graph.original[0]).__name__, name = "CenterNet", type(graph.original[0]).__name__
    try:
        with pytest.raises(UserError, match="CenterNet is not exported whole: add --part"):
            make_graph(load("atss_swin_t_coco"), graph.original[0], "model")
    finally:
        type(graph.original[0]).__name__ = name


def some_boxes(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, count, 2, generator=generator) * 80
    boxes = torch.cat([corners[0], corners[0] + corners[1] + 1], 1)
    scores = torch.rand(2, count, generator=generator)
    return boxes.expand(2, -1, -1), scores, torch.arange(count) % 3


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian", None])
def test_suppression_is_that_of_mmcv(method):
    from mmcv.ops import batched_nms

    boxes, scores, groups = some_boxes(60)
    cfg = {"iou_threshold": 0.3}
    if method is None:
        found = suppress(boxes, scores, groups, 20, overlap=0.3)
    else:
        cfg |= {"type": "soft_nms", "method": method, "min_score": 0.05, "sigma": 0.4}
        found = soft_suppress(boxes, scores, groups, 20, cfg)
    for i in range(2):
        expected, kept = batched_nms(boxes[i], scores[i], groups, cfg)
        assert len(kept) > 20  # more than are asked for
        assert torch.equal(found[1][i], kept[:20])
        torch.testing.assert_close(found[0][i], expected[:20, 4])


def test_what_is_missing_is_nothing():
    boxes, scores, groups = some_boxes(6)
    scores[1] = NOTHING
    for choose in (
        lambda: suppress(boxes, scores, groups, 9, 0.5),
        lambda: soft_suppress(boxes, scores, groups, 9, {"min_score": 0.0}),
    ):
        best, index = choose()
        assert best.shape == index.shape == (2, 9)
        assert (best[0, 6:] == NOTHING).all()
        assert (best[1] == NOTHING).all()
        assert (index < 6).all()
    best, index = top_scores(torch.tensor([[0.5, 0.7]]), 3)
    assert best.tolist() == [[pytest.approx(0.7), 0.5, NOTHING]]
    assert index[0, :2].tolist() == [1, 0]


def test_same_detections():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 90, 90]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1])
    order = torch.tensor([2, 0, 1])
    other = (boxes[order] + 0.01, scores[order], labels[order])
    first, second, error = same_detections((boxes, scores, labels), other, 100)
    assert dict(zip(first.tolist(), second.tolist(), strict=True)) == {0: 1, 1: 2, 2: 0}
    assert error == pytest.approx(1e-4, rel=1e-3)
    # One of three is another's class, or there is one more.
    assert same_detections((boxes, scores, labels * 0), other, 100)[2] == float("inf")
    assert same_detections((boxes[:2], scores[:2], labels[:2]), other, 100)[2] == float("inf")
    none = (boxes[:0], scores[:0], labels[:0])
    assert same_detections(none, none, 100)[2] == 0
    assert same_detections(none, other, 100)[2] == float("inf")


def test_masks_err_by_what_is_on_the_wrong_side():
    probabilities, masks = (
        torch.tensor([[[0.2, 0.7, 0.501]]]),
        torch.tensor([[[False, True, True]]]),
    )
    assert error_of_masks(probabilities, masks, 0.5) == 0
    masks[..., 2] = False
    assert error_of_masks(probabilities, masks, 0.5) == pytest.approx(0.001, rel=1e-3)
