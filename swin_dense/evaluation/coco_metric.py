"""COCO's twelve metrics, under their own names.

pycocotools is COCO's own evaluation, in Python; faster-coco-eval is the same in C++.
"""

import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval, COCOevalMP
from mmdet.evaluation import CocoMetric as _MmdetCocoMetric
from mmengine.logging import MMLogger
from pycocotools import mask as rle
from terminaltables import AsciiTable

from swin_dense.datasets.segmentations import whole_polygons
from swin_dense.errors import UserError
from swin_dense.registry import METRICS

BACKENDS = ("auto", "faster", "pycocotools")
# In the order of both libraries' ``stats``.
_ITEMS = (
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR@1", "AR@10", "AR@100", "AR_s@100", "AR_m@100", "AR_l@100"),
)


@METRICS.register_module()
class CocoMetric(_MmdetCocoMetric):
    """Box and mask AP and AR as https://cocodataset.org/#detection-eval defines them.

    mmdet's metric counts up to 1000 detections of an image, and leaves AR out unless asked. This
    one counts up to 1, 10 and 100 of them, and reports all twelve metrics for each of ``metric``:
    ``bbox_mAP, bbox_mAP_50, bbox_mAP_75, bbox_mAP_s, bbox_mAP_m, bbox_mAP_l, bbox_AR@1,
    bbox_AR@10, bbox_AR@100, bbox_AR_s@100, bbox_AR_m@100, bbox_AR_l@100``, and the same for
    ``segm``, each in [0, 1] to three decimals, or -1 where nothing could be counted. Without a
    single detection they are 0. ``classwise`` adds ``bbox_NAME_precision`` of each class, nan where
    it has no objects. Annotations may have any ids, 0 too, which pycocotools takes for "no match";
    polygons of less than three points are left out, as in training.

    Args:
        ann_file: COCO JSON with the ground truth; without it, the ground truth is taken from the
            data samples.
        metric: ``"bbox"``, ``"segm"`` or a list of both.
        backend: ``"faster"`` (faster-coco-eval) or ``"pycocotools"``, with equal results;
            ``"auto"`` is the former if it is installed.
        kwargs: mmdet's further arguments, except ``proposal_nums`` and ``metric_items``.
    """

    _coco_api: COCO | None

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | list[str] = "bbox",
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        if unknown := set(metrics) - {"bbox", "segm"}:
            raise ValueError(
                f"metric is 'bbox', 'segm' or a list of both, not {sorted(unknown)}; "
                "mmdet's own CocoMetric has the proposal metrics"
            )
        if backend not in BACKENDS:
            raise UserError(f"backend is one of {', '.join(BACKENDS)}, not {backend!r}")
        counts = {"proposal_nums": (1, 10, 100), "metric_items": list(_ITEMS)}
        super().__init__(ann_file=ann_file, metric=metrics, **counts, **kwargs)
        self.backend = backend
        if self._coco_api is not None:
            self._coco_api = for_evaluation(self._coco_api)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate; keys are ``"<bbox or segm>_<metric>"``.

        Args:
            results: of each image, ground truth and detections as mmdet's ``process`` keeps them.

        Raises:
            UserError: ``backend="faster"`` cannot be used, or there are no masks to evaluate.
        """
        truth = self._ground_truth([ground_truth for ground_truth, _ in results])
        self.cat_ids = truth.get_cat_ids(cat_names=self.dataset_meta["classes"])
        predictions = [prediction for _, prediction in results]
        if self.outfile_prefix is not None:
            self.results2json(predictions, self.outfile_prefix)
        if self.format_only:
            return {}
        metrics: dict[str, float] = {}
        for kind in self.metrics:
            metrics |= self._evaluate(truth, predictions, kind)
        return metrics

    def _ground_truth(self, samples: Sequence[dict]) -> COCO:
        if self._coco_api is None:
            with tempfile.TemporaryDirectory() as folder:
                prefix = self.outfile_prefix or str(Path(folder) / "results")
                self._coco_api = for_evaluation(COCO(self.gt_to_coco_json(samples, prefix)))
        return self._coco_api

    def _evaluate(self, truth: COCO, predictions: list[dict], kind: str) -> dict[str, float]:
        if kind == "segm" and any("masks" not in one for one in predictions):
            raise UserError("the detector predicts no masks: set metric='bbox' of the evaluator")
        logger = MMLogger.get_current_instance()
        logger.info(f"Evaluating {kind}...")
        annotations = to_annotations(predictions, kind, self.cat_ids)
        if not annotations:
            logger.warning("no detections in any image")
        evaluation = self.run_backend(truth, annotations, kind)
        metrics = {}
        if self.classwise:
            names = {category: truth.cats[category]["name"] for category in self.cat_ids}
            by_class = class_metrics(evaluation, names)
            precisions = {name: round(ap["mAP"], 3) for name, ap in by_class.items()}
            metrics = {f"{kind}_{name}_precision": ap for name, ap in precisions.items()}
            rows = [[n, *(f"{ap:.3f}" for ap in aps.values())] for n, aps in by_class.items()]
            logger.info("\n" + AsciiTable([["category", *_ITEMS[:6]], *rows]).table)
        stats = zip(_ITEMS, evaluation.stats, strict=True)
        return metrics | {f"{kind}_{name}": round(float(value), 3) for name, value in stats}

    def run_backend(self, truth: COCO, annotations: list[dict[str, Any]], kind: str) -> COCOeval:
        """Compare detections with the ground truth, for the categories ``cat_ids``.

        Args:
            truth: the ground truth.
            annotations: detections, from :func:`to_annotations`.
            kind: 'bbox' or 'segm'.

        Returns:
            The library's evaluation; ``stats`` has the twelve metrics, and ``eval["precision"]``
            the precision by threshold, recall, category in the order of their ids, area, and
            maximum number of detections.

        Raises:
            UserError: ``backend="faster"`` cannot be used.
        """
        backend = choose_backend(self.backend, truth)
        log = MMLogger.get_current_instance().info
        printed = io.StringIO()
        with redirect_stdout(printed):
            detections = COCO()
            detections.dataset = {**truth.dataset, "annotations": annotations}
            detections.createIndex()
            if backend == "faster":
                from faster_coco_eval import COCOeval_faster

                evaluation = COCOeval_faster(truth, detections, kind, print_function=log)
            else:
                evaluation = (COCOevalMP if self.use_mp_eval else COCOeval)(truth, detections, kind)
            params = evaluation.params
            params.catIds, params.imgIds = list(self.cat_ids), truth.getImgIds()
            params.maxDets, params.iouThrs = list(self.proposal_nums), np.atleast_1d(self.iou_thrs)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        for line in printed.getvalue().splitlines():
            log(line)
        return evaluation


def for_evaluation(truth: COCO) -> COCO:
    """The ground truth, changed in place: annotations by number from 1, whole polygons alone."""
    for number, annotation in enumerate(truth.dataset.get("annotations", []), start=1):
        annotation["id"] = number
        if isinstance(polygons := annotation.get("segmentation"), list):
            annotation["segmentation"] = whole_polygons(polygons)
    truth.createIndex()
    return truth


def choose_backend(name: str, truth: COCO) -> str:
    """Return 'faster' or 'pycocotools'.

    'auto' is faster-coco-eval if it is installed and the ids of images and annotations are
    integers, which it requires.

    Raises:
        UserError: 'faster' is requested, but cannot be used.
    """
    if name == "pycocotools":
        return name
    why_not = None
    if find_spec("faster_coco_eval") is None:
        why_not = "faster-coco-eval is not installed: pip install faster-coco-eval"
    elif not all(isinstance(key, int) for key in (*truth.imgs, *truth.anns)):
        why_not = "the ids of images and annotations are not all integers"
    if why_not and name == "faster":
        raise UserError(f"backend 'faster' cannot be used: {why_not}, or use 'pycocotools'")
    return "pycocotools" if why_not else "faster"


def to_annotations(results: list[dict], kind: str, category_ids: Sequence[int]) -> list[dict]:
    """Convert detections to COCO annotations.

    Args:
        results: one for each image: ``img_id``, ``bboxes`` (N, 4) as x1, y1, x2, y2 in pixels,
            ``scores`` (N,), ``labels`` (N,), and for masks ``masks``, N run-length encodings, and
            ``mask_scores`` (N,) if they differ from ``scores``.
        kind: 'bbox' or 'segm'.
        category_ids: by label.
    """
    annotations: list[dict] = []
    for result in results:
        # To float64 first: that is what a JSON file of results would be read as.
        boxes = np.array(result["bboxes"], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        masks: list = []
        if kind == "segm":
            masks, scores = list(result["masks"]), result.get("mask_scores", result["scores"])
            # COCO's area of a mask is that of the mask, not of the box.
            areas = rle.area(masks).tolist() if masks else []
        else:
            scores, areas = result["scores"], (boxes[:, 2] * boxes[:, 3]).tolist()
        columns = (boxes.tolist(), scores.tolist(), result["labels"].tolist(), areas)
        for i, (box, score, label, area) in enumerate(zip(*columns, strict=True)):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": result["img_id"],
                "category_id": category_ids[label],
                "iscrowd": 0,
                "bbox": box,
                "score": score,
                "area": area,
            }
            if masks:
                annotation["segmentation"] = masks[i]
            annotations.append(annotation)
    return annotations


def class_metrics(evaluation: COCOeval, names: Mapping[int, str]) -> dict[str, dict[str, float]]:
    """Return ``mAP, mAP_50, mAP_75, mAP_s, mAP_m, mAP_l`` of each class, nan where unknown.

    Args:
        evaluation: from :meth:`CocoMetric.run_backend`.
        names: by category id.
    """
    # (thresholds, recalls, categories by rising id, areas, detections)
    precision = evaluation.eval["precision"]
    half, three_quarters = (np.isclose(evaluation.params.iouThrs, at) for at in (0.5, 0.75))
    metrics = {}
    for column, category in enumerate(evaluation.params.catIds):
        aps = precision[:, :, column, :, -1]
        parts = [aps[..., 0], aps[half, :, 0], aps[three_quarters, :, 0]]
        parts += [aps[..., area] for area in (1, 2, 3)]
        metrics[names[category]] = dict(zip(_ITEMS[:6], map(_mean, parts), strict=True))
    return metrics


def _mean(precision: np.ndarray) -> float:
    """Mean of the defined values; the libraries write -1 for undefined ones."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else float("nan")
