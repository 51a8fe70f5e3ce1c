"""Detections against COCO ground truth: what is counted, and the two libraries that count it.

pycocotools is COCO's own evaluation, in Python; faster-coco-eval is the same in C++.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval, COCOevalMP
from pycocotools import mask as rle

from swin_dense.errors import UserError

BACKENDS = ("auto", "faster", "pycocotools")
# Area ranges, in the order of the evaluation's arrays, and what their AP is called.
_AREAS = ("mAP_s", "mAP_m", "mAP_l")


def choose_backend(name: str, truth: COCO) -> str:
    """'faster' or 'pycocotools'.

    'auto' is faster-coco-eval where it is installed and the ids of images and annotations are
    integers, which it needs.

    Raises:
        UserError: 'faster' is asked for, and cannot be had.
    """
    if name == "pycocotools":
        return name
    why_not = None
    if find_spec("faster_coco_eval") is None:
        why_not = "faster-coco-eval is not installed: pip install faster-coco-eval"
    elif not all(isinstance(key, int) for key in (*truth.imgs, *truth.anns)):
        why_not = "the ids of images and annotations are not all integers"
    if why_not and name == "faster":
        raise UserError(f"backend 'faster' cannot be used: {why_not}, or take 'pycocotools'")
    return "pycocotools" if why_not else "faster"


def to_annotations(
    results: Sequence[Mapping[str, Any]], kind: str, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections as COCO annotations.

    Args:
        results: one for each image: ``img_id``, ``bboxes`` (N, 4) as x1, y1, x2, y2 in pixels,
            ``scores`` (N,), ``labels`` (N,), and for masks ``masks``, N run-length encodings, and
            ``mask_scores`` (N,) where they differ from ``scores``.
        kind: 'bbox' or 'segm'.
        category_ids: by label.
    """
    annotations: list[dict[str, Any]] = []
    add = annotations.append
    for result in results:
        image, boxes, masks = result["img_id"], result["bboxes"], None
        if kind == "segm":
            masks, scores = result["masks"], result.get("mask_scores", result["scores"])
            # As COCO has it, a mask's size is that of the mask, not of the box.
            areas = rle.area(list(masks)).tolist() if len(masks) else []
        else:
            scores = result["scores"]
        # To float64 first: that is what a JSON file of results would be read as.
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        if masks is None:
            areas = (boxes[:, 2] * boxes[:, 3]).tolist()
        columns = (boxes.tolist(), scores.tolist(), result["labels"].tolist(), areas)
        for i, (box, score, label, area) in enumerate(zip(*columns, strict=True)):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": category_ids[label],
                "bbox": box,
                "score": score,
                "area": area,
                "iscrowd": 0,
            }
            if masks is not None:
                annotation["segmentation"] = masks[i]
            add(annotation)
    return annotations


def evaluate(
    truth: COCO,
    annotations: list[dict[str, Any]],
    kind: str,
    *,
    backend: str,
    category_ids: Sequence[int],
    iou_thresholds: Sequence[float],
    detections: Sequence[int],
    say: Callable[[str], Any],
    processes: bool = False,
) -> COCOeval:
    """Count hits and misses.

    Args:
        truth: the ground truth.
        annotations: detections, of :func:`to_annotations`.
        kind: 'bbox' or 'segm'.
        backend: 'faster' or 'pycocotools'.
        category_ids: categories to count.
        iou_thresholds: overlaps from which a detection is a hit.
        detections: how many of an image count, in rising order.
        say: takes the lines in which the libraries tell their progress and result.
        processes: with pycocotools, use all cores.

    Returns:
        The library's evaluation; ``stats`` has the twelve figures, and ``eval["precision"]``
        the precision by threshold, recall, category in the order of their ids, area, detections.
    """
    chatter = io.StringIO()
    with redirect_stdout(chatter):
        found = COCO()
        found.dataset = {
            "images": truth.dataset["images"],
            "categories": truth.dataset["categories"],
            "annotations": annotations,
        }
        found.createIndex()
        if backend == "faster":
            from faster_coco_eval import COCOeval_faster

            evaluation = COCOeval_faster(truth, found, kind, print_function=say)
        else:
            evaluation = (COCOevalMP if processes else COCOeval)(truth, found, kind)
        evaluation.params.catIds = list(category_ids)
        evaluation.params.imgIds = truth.getImgIds()
        evaluation.params.maxDets = list(detections)
        evaluation.params.iouThrs = np.atleast_1d(iou_thresholds)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    for line in chatter.getvalue().splitlines():
        say(line)
    return evaluation


def figures_of_classes(evaluation: COCOeval, names: Mapping[int, str]) -> dict[str, dict]:
    """AP of each category: ``mAP, mAP_50, mAP_75, mAP_s, mAP_m, mAP_l``, nan where unknown.

    Args:
        evaluation: of :func:`evaluate`.
        names: by category id.
    """
    figures = {}
    # (thresholds, recalls, categories by rising id, areas, detections)
    precision = evaluation.eval["precision"]
    half, three_quarters = (np.isclose(evaluation.params.iouThrs, at) for at in (0.5, 0.75))
    for column, category in enumerate(evaluation.params.catIds):
        one = precision[:, :, column, :, -1]
        figures[names[category]] = {
            "mAP": _mean(one[..., 0]),
            "mAP_50": _mean(one[half, :, 0]),
            "mAP_75": _mean(one[three_quarters, :, 0]),
            **{name: _mean(one[..., i]) for i, name in enumerate(_AREAS, start=1)},
        }
    return figures


def _mean(precision: np.ndarray) -> float:
    """The average of what could be counted; the libraries write -1 for the rest."""
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else float("nan")
