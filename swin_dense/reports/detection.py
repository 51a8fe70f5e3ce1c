"""What detections are worth: AP by class, precision and recall, confusions, kinds of errors.

The kinds of errors are those of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object
Detection Errors", ECCV 2020, sections 2.2 and 2.3), with its thresholds.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from numpy.typing import NDArray
from pycocotools import mask as rle

from swin_dense.config_tree import class_names, split_datasets, split_evaluators
from swin_dense.errors import UserError
from swin_dense.evaluation.coco_metric import (
    CocoMetric,
    class_metrics,
    for_evaluation,
    to_annotations,
)
from swin_dense.reports.predictions import Record

FOREGROUND, BACKGROUND = 0.5, 0.1  # TIDE's thresholds of the IoU
# The outcomes of a detection. Those that are errors are in the order of the paper's table 1.
CORRECT, IGNORED = -2, -1
ERRORS = ("class", "localisation", "class and localisation", "duplicate", "background", "missed")
CLASS, LOCALISATION, BOTH, DUPLICATE, FALSE, MISSED = range(6)
MEANING = {
    "class": f"a box on an object (IoU at least {FOREGROUND}) of another class",
    "localisation": f"the right class, but IoU between {BACKGROUND} and {FOREGROUND}",
    "class and localisation": f"another class, and IoU between {BACKGROUND} and {FOREGROUND}",
    "duplicate": "an object that a detection with a higher score has found",
    "background": f"no object there (IoU at most {BACKGROUND})",
    "missed": "objects without a detection, not even one of wrong class or place",
}


@dataclass
class Truth:
    """The annotations of the images that were predicted.

    Attributes:
        coco: them, in COCO's form.
        category_ids: by label.
        classes: names by label.
    """

    coco: COCO
    category_ids: list[int]
    classes: tuple[str, ...]

    def has_masks(self) -> bool:
        """Whether every object has a mask."""
        objects = self.coco.dataset["annotations"]
        return bool(objects) and all(one.get("segmentation") for one in objects)


@dataclass
class Matching:
    """All detections of all images against the objects, boxes or masks, at an IoU of 0.5.

    Arrays of one kind have the same length: ``image`` (an index), ``label``, ``score``, ``outcome``
    (an error's index, CORRECT or IGNORED) and ``target`` (the object that it should have found, or
    -1) of each detection; ``object_image`` and ``object_label`` of each object that counts;
    ``is_missed`` tells which of these have the error of that name. ``ious`` has a matrix for each
    image: detections by objects.
    """

    image: NDArray
    label: NDArray
    score: NDArray
    outcome: NDArray
    target: NDArray
    object_image: NDArray
    object_label: NDArray
    is_missed: NDArray
    ious: list[NDArray]


def read_truth(cfg: Config, split: str, records: Sequence[Record]) -> Truth:
    """The annotations of predicted images, from the evaluator's file or else from the data set.

    Raises:
        UserError: the images are others than those of the config.
    """
    ids = {one["img_id"] for one in records}
    datasets = list(split_datasets(cfg, split))
    classes = class_names(cfg, datasets[0])
    files = [
        one["ann_file"]
        for one in split_evaluators(cfg, split)
        if str(one.get("type")).rpartition(".")[2] == "CocoMetric" and one.get("ann_file")
    ]
    if files:
        coco = CocoMetric(ann_file=str(files[0]))._coco_api
        assert coco is not None
        category_ids = coco.get_cat_ids(cat_names=classes)
        classes = tuple(coco.cats[key]["name"] for key in category_ids)
        content = coco.dataset
    else:
        content = _from_datasets(cfg, datasets, classes)
        category_ids = list(range(len(classes)))
    images = [one for one in content["images"] if one["id"] in ids]
    if len(images) < len(ids):
        raise UserError(
            f"{len(ids) - len(images)} of {len(ids)} predicted images are not in the {split} data "
            "of the config: give the config, and --data-root, of these predictions"
        )
    wanted = set(category_ids)
    objects = [
        one
        for one in content["annotations"]
        if one["image_id"] in ids and one["category_id"] in wanted
    ]
    coco = COCO()
    coco.dataset = {**content, "images": images, "annotations": objects}
    return Truth(for_evaluation(coco), category_ids, classes)


def _from_datasets(cfg: Config, datasets: Sequence[dict], classes: Sequence[str]) -> dict:
    """What data sets of mmdet hold, of any format, as COCO would; without crowds' masks."""
    init_default_scope(cfg.get("default_scope", "mmdet"))
    images: list[dict] = []
    objects: list[dict] = []
    for settings in datasets:
        dataset = DATASETS.build({**settings, "pipeline": [], "test_mode": True})
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            images.append({"id": info["img_id"], "file_name": info["img_path"]})
            images[-1] |= {"width": info["width"], "height": info["height"]}
            for one in info["instances"]:
                left, top, right, bottom = one["bbox"]
                width, height = right - left, bottom - top
                entry = {"id": len(objects) + 1, "image_id": info["img_id"]}
                entry |= {"bbox": [left, top, width, height], "area": width * height}
                entry |= {"category_id": one["bbox_label"], "iscrowd": int(one["ignore_flag"])}
                if "mask" in one:
                    entry["segmentation"] = one["mask"]
                objects.append(entry)
    categories = [{"id": label, "name": name} for label, name in enumerate(classes)]
    return {"images": images, "annotations": objects, "categories": categories}


def evaluate_classes(
    truth: Truth, records: Sequence[Record], kind: str
) -> tuple[dict[str, dict[str, float]], NDArray]:
    """COCO's AP of each class, and precision at recalls of 0, 0.01, ... 1 and an IoU of 0.5.

    Args:
        truth: annotations.
        records: predictions.
        kind: 'bbox' or 'segm'.

    Returns:
        :func:`~swin_dense.evaluation.coco_metric.class_metrics`, and (classes, 101), -1 where a
        class has no objects.
    """
    metric = CocoMetric(metric=kind)
    metric.cat_ids = truth.category_ids
    annotations = to_annotations(list(records), kind, truth.category_ids)
    if not annotations:
        nothing = dict.fromkeys(("mAP", "mAP_50", "mAP_75"), 0.0)
        return {name: dict(nothing) for name in truth.classes}, np.zeros((len(truth.classes), 101))
    with _unlogged():
        evaluation = metric.run_backend(truth.coco, annotations, kind)
    names = dict(zip(truth.category_ids, truth.classes, strict=True))
    order = [sorted(truth.category_ids).index(key) for key in truth.category_ids]
    precision = np.asarray(evaluation.eval["precision"])[0, :, :, 0, -1].T
    return class_metrics(evaluation, names), precision[order]


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keeps what is measured here, maybe of a part of the images, out of the log of a training."""
    logger = MMLogger.get_current_instance()
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def match(truth: Truth, records: Sequence[Record], kind: str) -> Matching:
    """Compares all detections with all objects; see :class:`Matching`."""
    labels = {key: label for label, key in enumerate(truth.category_ids)}
    parts: dict[str, list] = {name: [] for name in Matching.__annotations__}
    count = 0
    for index, record in enumerate(records):
        objects = truth.coco.imgToAnns.get(record["img_id"], [])
        is_crowd = np.array([bool(one.get("iscrowd")) for one in objects], bool)
        object_labels = np.array([labels[one["category_id"]] for one in objects], int)
        ious = _ious(truth.coco, record, objects, is_crowd, kind)
        outcome, target = _match_image(ious, record, object_labels, is_crowd)
        ious, object_labels = ious[:, ~is_crowd], object_labels[~is_crowd]
        # Numbers of objects that count: within the image, then among all.
        numbers = np.cumsum(~is_crowd) - 1 + count
        is_missed = ~np.isin(np.arange(len(is_crowd)), target)[~is_crowd]
        parts["image"].append(np.full(len(outcome), index))
        parts["label"].append(record["labels"])
        parts["score"].append(record["scores"])
        parts["outcome"].append(outcome)
        parts["target"].append(np.where(target < 0, -1, numbers[target] if len(numbers) else -1))
        parts["object_image"].append(np.full(len(object_labels), index))
        parts["object_label"].append(object_labels)
        parts["is_missed"].append(is_missed)
        parts["ious"].append(ious)
        count += len(object_labels)
    joined = {
        name: np.concatenate(value) if value else np.zeros(0, int)
        for name, value in parts.items()
        if name != "ious"
    }
    return Matching(**joined, ious=parts["ious"])


def _ious(
    coco: COCO, record: Record, objects: Sequence[Mapping[str, Any]], is_crowd: NDArray, kind: str
) -> NDArray:
    """IoU of each detection with each object (n, m); with a crowd, the part that is within it."""
    if not len(record["scores"]) or not objects:
        return np.zeros((len(record["scores"]), len(objects)))
    crowds = is_crowd.astype(int).tolist()
    if kind == "segm":
        return rle.iou(record["masks"], [coco.annToRLE(one) for one in objects], crowds)
    boxes = np.array(record["bboxes"], np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return rle.iou(boxes, np.array([one["bbox"] for one in objects], np.float64), crowds)


def _match_image(
    ious: NDArray, record: Record, labels: NDArray, is_crowd: NDArray
) -> tuple[NDArray, NDArray]:
    """Outcome of each detection of an image, and the index of the object it should have found."""
    count = len(record["scores"])
    outcome, target = np.full(count, FALSE), np.full(count, -1)
    taken = is_crowd.copy()
    order = np.argsort(-record["scores"], kind="stable")
    same = record["labels"][:, None] == labels[None] if count else np.zeros((0, len(labels)), bool)
    for i in order:
        overlap = np.where(same[i] & ~taken, ious[i], 0.0)
        if overlap.size and overlap.max() >= FOREGROUND:
            target[i] = overlap.argmax()
            outcome[i], taken[target[i]] = CORRECT, True
    for i in order:
        if outcome[i] != CORRECT and len(labels):
            outcome[i], target[i] = _kind_of_error(ious[i], same[i], is_crowd)
    return outcome, target


def _kind_of_error(ious: NDArray, same: NDArray, is_crowd: NDArray) -> tuple[int, int]:
    """Why a detection is not correct, in the order in which TIDE asks; and its object, or -1."""
    right, wrong = np.where(same & ~is_crowd, ious, 0), np.where(~same & ~is_crowd, ious, 0)
    if np.where(same & is_crowd, ious, 0).max() >= FOREGROUND:
        return IGNORED, -1
    if BACKGROUND <= right.max() < FOREGROUND:
        return LOCALISATION, int(right.argmax())
    if wrong.max() >= FOREGROUND:
        return CLASS, int(wrong.argmax())
    if right.max() >= FOREGROUND:
        return DUPLICATE, -1
    return (FALSE if wrong.max() < BACKGROUND else BOTH), -1


def count_errors(found: Matching) -> dict[str, int]:
    """How many errors of each kind there are."""
    counts = {name: int((found.outcome == index).sum()) for index, name in enumerate(ERRORS)}
    return {**counts, "missed": int(found.is_missed.sum())}


def cost_of_errors(found: Matching, classes: int) -> tuple[float, dict[str, float]]:
    """AP at an IoU of 0.5, and by how much it would rise without the errors of each kind.

    As in TIDE, class and localisation errors become correct (all but the one with the highest
    score are removed), other detections are removed, and missed objects no longer count.
    """
    base = _mean_precision(found, found.outcome, found.label, found.object_label, classes)
    costs = {}
    for kind, name in enumerate(ERRORS):
        outcome, label, objects = found.outcome.copy(), found.label.copy(), found.object_label
        if kind == MISSED:
            objects = objects[~found.is_missed]
        of_kind = np.flatnonzero(outcome == kind)
        outcome[of_kind] = IGNORED
        if kind in (CLASS, LOCALISATION):
            taken = set(found.target[outcome == CORRECT].tolist())
            for i in of_kind[np.argsort(-found.score[of_kind], kind="stable")]:
                if (aim := int(found.target[i])) not in taken:
                    taken.add(aim)
                    outcome[i], label[i] = CORRECT, found.object_label[aim]
        fixed = _mean_precision(found, outcome, label, objects, classes)
        costs[name] = max(0.0, fixed - base)
    return base, costs


def _mean_precision(
    found: Matching, outcome: NDArray, label: NDArray, objects: NDArray, classes: int
) -> float:
    """COCO's AP at one IoU, the mean of classes with objects: of 101 recalls."""
    aps = []
    for one in range(classes):
        of_class = (label == one) & (outcome != IGNORED)
        number = int((objects == one).sum())
        if number:
            order = np.argsort(-found.score[of_class], kind="stable")
            correct = (outcome[of_class] == CORRECT)[order]
            aps.append(_average_precision(correct, number))
    return float(np.mean(aps)) if aps else float("nan")


def _average_precision(correct: NDArray, number: int) -> float:
    hits = np.cumsum(correct)
    recall, precision = hits / number, hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(
        np.where(at < len(hits), np.append(envelope, 0)[np.minimum(at, len(hits))], 0).mean()
    )


def f1_by_score(found: Matching) -> tuple[NDArray, NDArray]:
    """F1 of all detections with at least a score, for scores of 0, 0.01, ... 1."""
    thresholds = np.linspace(0, 1, 101)
    counted = found.outcome != IGNORED
    scores, correct = found.score[counted], found.outcome[counted] == CORRECT
    above = scores[None] >= thresholds[:, None]
    hits, shown = (above & correct).sum(1), above.sum(1)
    return thresholds, 2 * hits / np.maximum(shown + len(found.object_label), 1)


def confusion(found: Matching, classes: int) -> NDArray:
    """How often objects of each class were found as each class.

    Pairs are made of detections and objects, of the largest IoU first, down to 0.5.

    Returns:
        (classes + 1, classes + 1) counts: rows are the true classes and then the background,
        columns the predicted ones and then "missed".
    """
    table = np.zeros((classes + 1, classes + 1), int)
    for index, ious in enumerate(found.ious):
        of_image = found.image == index
        predicted, counts = found.label[of_image], found.outcome[of_image] != IGNORED
        actual = found.object_label[found.object_image == index]
        pairs = np.argwhere((ious >= FOREGROUND) & counts[:, None])
        used: set[int] = set()
        hit: set[int] = set()
        for i, j in pairs[np.argsort(-ious[pairs[:, 0], pairs[:, 1]], kind="stable")].tolist():
            if i not in used and j not in hit:
                used.add(i)
                hit.add(j)
                table[actual[j], predicted[i]] += 1
        for j in set(range(len(actual))) - hit:
            table[actual[j], classes] += 1
        for i in set(np.flatnonzero(counts).tolist()) - used:
            table[classes, predicted[i]] += 1
    return table


@dataclass
class ImageScore:
    """How well an image was predicted: objects found and missed, and false detections."""

    index: int
    found: int
    missed: int
    false: int

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 if there was nothing to find and nothing was found."""
        errors = self.missed + self.false
        return 1.0 if not errors else 2 * self.found / (2 * self.found + errors)


def score_images(found: Matching) -> list[ImageScore]:
    """Every image, the best first."""
    images = []
    for index in range(len(found.ious)):
        of_image = found.image == index
        hits = int((found.outcome[of_image] == CORRECT).sum())
        wrong = int((found.outcome[of_image] >= 0).sum())
        objects = int((found.object_image == index).sum())
        images.append(ImageScore(index, hits, objects - hits, wrong))
    return sorted(images, key=lambda one: (-one.f1, -one.found, one.missed + one.false))


def above(records: Sequence[Record], score: float) -> list[Record]:
    """The records with those detections only that have at least this score."""
    kept = []
    for record in records:
        chosen = record["scores"] >= score
        part = {key: record[key][chosen] for key in ("bboxes", "scores", "labels")}
        if "masks" in record:
            part["masks"] = [record["masks"][i] for i in np.flatnonzero(chosen)]
        kept.append({**record, **part})
    return kept
