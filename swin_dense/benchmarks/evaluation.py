"""COCO evaluation: ours against mmdet's, on random ground truth and detections."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric as StockMetric
from mmengine.structures import InstanceData
from pycocotools import mask as rle

from swin_dense.benchmarks.baselines import OURS
from swin_dense.benchmarks.measurement import interleave
from swin_dense.errors import UserError
from swin_dense.evaluation import CocoMetric
from swin_dense.files import write_json

_METRICS = {OURS: CocoMetric, "mmdet": StockMetric}
_CLASSES = CocoDataset.METAINFO["classes"]
_HEIGHT, _WIDTH = 480, 640
_OBJECTS = 7  # of an image; COCO's average
_CHECKED = 50  # images


def measure_evaluation(
    images: int, detections: int, kinds: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Check that both metrics agree on a few images, then time them alternately on all images.

    Timed are reading the ground truth, processing the detections (masks as run lengths),
    formatting, and evaluation. ``detections`` are those of each image, ``kinds`` of 'bbox' and
    'segm'.

    Raises:
        UserError: the metrics differ; nothing is timed then.
    """
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few.json", Path(folder) / "many.json"
        samples = make_scene(many, images, detections)
        checked = make_scene(few, min(_CHECKED, images), detections)
        for kind in kinds:
            ours, stock = (evaluate(m, few, checked, kind) for m in _METRICS.values())
            if wrong := [k for k, v in stock.items() if abs(ours[k] - v) > 5e-4]:
                raise UserError(f"{wrong[0]} of ours and mmdet differ: nothing was timed")
        records: list[dict[str, Any]] = [{"name": name} for name in _METRICS]
        for kind in kinds:
            steps = {n: partial(evaluate, m, many, samples, kind) for n, m in _METRICS.items()}
            times = interleave(steps, rounds, torch.device("cpu"), warm_up=False)
            for record in records:
                record[kind] = times[record["name"]].as_json(times[OURS])
    settings = {"images": images, "detections": detections, "rounds": rounds}
    return {"settings": settings, "models": records}


def evaluate(metric: type, truth: Path, samples: list[dict], kind: str) -> dict[str, float]:
    """What a metric class computes."""
    one = metric(ann_file=str(truth), metric=kind)
    one.dataset_meta = CocoDataset.METAINFO
    one.process({}, samples)
    return one.evaluate(len(samples))


def make_scene(path: Path, images: int, detections: int) -> list[dict]:
    """Write ground truth to ``path``; return detections, one of four near an object."""
    rng = np.random.default_rng(0)
    annotations: list[dict] = []
    samples: list[dict] = []
    for image in range(images):
        boxes, labels = _boxes(rng, _OBJECTS), rng.integers(len(_CLASSES), size=_OBJECTS)
        for (x, y, w, h), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            one = {"id": len(annotations) + 1, "image_id": image, "category_id": label}
            one |= {"bbox": [x, y, w, h], "segmentation": [polygon], "area": w * h, "iscrowd": 0}
            annotations.append(one)
        found = _detections(rng, boxes, labels, detections)
        samples.append({"img_id": image, "ori_shape": (_HEIGHT, _WIDTH), "pred_instances": found})
    size = {"width": _WIDTH, "height": _HEIGHT, "file_name": ""}
    content = {
        "images": [{"id": i, **size} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(_CLASSES)],
    }
    write_json(path, content)
    return samples


def _detections(
    rng: np.random.Generator, objects: np.ndarray, labels: np.ndarray, count: int
) -> InstanceData:
    near = rng.integers(len(objects), size=count // 4)
    shaken = objects[near] * rng.normal(1, 0.05, (len(near), 4))
    boxes = np.vstack([shaken, _boxes(rng, count - len(near))])
    found = np.concatenate([labels[near], rng.integers(len(_CLASSES), size=count - len(near))])
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    masks = rle.frPyObjects(boxes, _HEIGHT, _WIDTH)
    return InstanceData(
        bboxes=torch.from_numpy(corners).float(),
        scores=torch.from_numpy(rng.random(count)).float(),
        labels=torch.from_numpy(found),
        # as text: mmdet would replace bytes, so that its first turn alone would do so
        masks=[{"size": m["size"], "counts": m["counts"].decode()} for m in masks],
    )


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) as x, y, width, height, small ones as frequent as large ones."""
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corner = rng.random((count, 2)) * (np.array([_WIDTH, _HEIGHT]) - sides)
    return np.hstack([corner, sides])
