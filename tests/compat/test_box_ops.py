"""NMS and soft-NMS against plain loops."""

import math

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, nms, nms_match, soft_nms
from mmcv_cases import boxes_and_scores
from torch import Tensor

import swin_dense  # noqa: F401

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def overlap(a: list[float], b: list[float], offset: int) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


def plain_soft_nms(
    boxes: Tensor, scores: Tensor, threshold: float, sigma: float, low: float, how: str, offset: int
) -> tuple[list[int], list[float]]:
    places, left = boxes.tolist(), dict(enumerate(scores.tolist()))
    kept, lowered = [], []
    while left:
        best = max(left, key=lambda i: left[i])
        kept.append(best)
        lowered.append(left.pop(best))
        for i in list(left):
            iou = overlap(places[best], places[i], offset)
            if how == "gaussian":
                left[i] *= math.exp(-iou * iou / sigma)
            elif iou >= threshold:
                left[i] *= 1 - iou if how == "linear" else 0
            if left[i] < low:
                del left[i]
    return kept, lowered


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("low", [0.0, 1e-3, 0.3])
def test_soft_nms(device: str, how: str, offset: int, low: float) -> None:
    boxes, scores = boxes_and_scores(3, 70)
    boxes[:, ::2] += 200 * (torch.arange(70) % 3)[:, None]  # groups that do not overlap
    expected, lowered = plain_soft_nms(boxes, scores, 0.3, 0.5, low, how, offset)
    dets, kept = soft_nms(boxes.to(device), scores.to(device), 0.3, 0.5, low, how, offset)
    assert dets.device.type == kept.device.type == device
    if low == 0 and how == "naive":  # all zeros are equal: any order is right
        expected = [i for i, score in zip(expected, lowered, strict=True) if score]
        dets, kept = dets[: len(expected)], kept[: len(expected)]
        lowered = lowered[: len(expected)]
    assert kept.tolist() == expected
    assert dets[:, :4].cpu().equal(boxes[expected])
    # float32 against Python's float64
    assert dets[:, 4].tolist() == pytest.approx(lowered, rel=1e-4)


def test_soft_nms_without_the_table_of_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = boxes_and_scores(4, 50)
    with_table = soft_nms(boxes, scores, method="gaussian")
    monkeypatch.setattr("swin_dense.compat.ops.boxes._LARGEST_TABLE", 0)
    without = soft_nms(boxes, scores, method="gaussian")
    assert with_table[1].equal(without[1])
    assert torch.allclose(with_table[0], without[0])


def test_soft_nms_keeps_the_best_box_below_the_threshold() -> None:
    boxes, scores = boxes_and_scores(5, 6)
    dets, kept = soft_nms(boxes, scores * 1e-4, min_score=0.5)
    assert kept.tolist() == [int(scores.argmax())]
    assert dets.shape == (1, 5)


def test_soft_nms_of_degenerate_boxes_arrays_and_nothing() -> None:
    boxes = np.array([[4, 3, 5, 3], [4, 3, 5, 4], *[[3, 1, 3, 1]] * 4], dtype=np.float32)
    scores = np.array([0.9, 0.9, 0.5, 0.5, 0.4, 0.0], dtype=np.float32)
    dets, kept = soft_nms(boxes, scores, 0.6, sigma=0.5)  # mmcv's example: five remain
    assert isinstance(dets, np.ndarray)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    dets, kept = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)
    with pytest.raises(ValueError, match="expected method in"):
        soft_nms(boxes, scores, method="square")


def test_mmcv_calling_convention() -> None:
    from swin_dense.compat.ops import OPERATORS

    boxes, scores = boxes_and_scores(6, 40)
    dets = boxes.new_empty(40, 5)
    kept = OPERATORS["softnms"](
        boxes, scores, dets, iou_threshold=0.3, sigma=0.5, min_score=0.2, method=1, offset=0
    )
    expected, expected_kept = soft_nms(boxes, scores, min_score=0.2)
    assert kept.equal(expected_kept)
    assert dets[: len(kept)].equal(expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
def test_nms(device: str, offset: int) -> None:
    boxes, scores = boxes_and_scores(7, 80)
    expected: list[int] = []
    places = boxes.tolist()
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(places[i], places[j], offset) <= 0.3 for j in expected):
            expected.append(i)
    dets, kept = nms(boxes.to(device), scores.to(device), 0.3, offset)
    assert kept.tolist() == expected
    assert dets.cpu().equal(torch.cat([boxes, scores[:, None]], dim=1)[expected])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["nms", "soft_nms"])
def test_other_precisions(device: str, dtype: torch.dtype, method: str) -> None:
    boxes, scores = (tensor.to(dtype) for tensor in boxes_and_scores(8, 50))
    # Rounded scores have ties, whose order is arbitrary.
    scores = (torch.arange(50).flip(0) / 64).to(dtype)
    function = {"nms": nms, "soft_nms": soft_nms}[method]
    dets, kept = function(boxes.to(device), scores.to(device), 0.3)
    _, expected = function(boxes.float(), scores.float(), 0.3)
    assert dets.dtype is dtype
    assert kept.tolist() == expected.tolist()


def test_classes_do_not_suppress_each_other() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 4)
    scores, classes = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 0, 1])
    config = {"type": "nms", "iou_threshold": 0.5}
    assert batched_nms(boxes, scores, classes, config)[1].tolist() == [0, 1]
    assert batched_nms(boxes, scores, classes, config, class_agnostic=True)[1].tolist() == [0]
    config["type"] = "soft_nms"
    dets, kept = batched_nms(boxes, scores, classes, config)
    assert kept.tolist() == [0, 1]
    assert dets[:, 4].tolist() == pytest.approx([0.9, 0.8])


def test_nms_of_no_boxes_and_match_at_the_threshold() -> None:
    dets, kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5)
    assert kept.dtype is torch.long
    half = torch.tensor([[0, 0, 2, 1, 0.5], [0, 0, 1, 1, 0.9], [5, 5, 6, 6, 0.7]])
    assert [group.tolist() for group in nms_match(half, 0.5)] == [[1, 0], [2]]
