"""COCO's twelve figures, under their own names."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as _MmdetCocoMetric
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from swin_dense.errors import UserError
from swin_dense.evaluation.coco_figures import (
    BACKENDS,
    choose_backend,
    evaluate,
    figures_of_classes,
    to_annotations,
)
from swin_dense.registry import METRICS

# In the order of both libraries' ``stats``.
_ITEMS = (
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR@1", "AR@10", "AR@100", "AR_s@100", "AR_m@100", "AR_l@100"),
)


@METRICS.register_module()
class CocoMetric(_MmdetCocoMetric):
    """Box and mask AP and AR as https://cocodataset.org/#detection-eval defines them.

    mmdet's metric counts up to 1000 detections of an image, and leaves AR out unless asked. This
    one counts up to 1, 10 and 100 of them, and reports all twelve figures for each of ``metric``:
    ``bbox_mAP, bbox_mAP_50, bbox_mAP_75, bbox_mAP_s, bbox_mAP_m, bbox_mAP_l, bbox_AR@1,
    bbox_AR@10, bbox_AR@100, bbox_AR_s@100, bbox_AR_m@100, bbox_AR_l@100``, and the same for
    ``segm``, each in [0, 1] to three decimals, or -1 where nothing could be counted. Without a
    single detection they are 0.

    Args:
        ann_file: COCO JSON with the ground truth; without it, the ground truth is taken from the
            data samples.
        metric: ``"bbox"``, ``"segm"`` or a list of both.
        backend: ``"faster"`` (faster-coco-eval) or ``"pycocotools"``; their figures are the same.
            ``"auto"`` is the former where it is installed.
        kwargs: mmdet's further arguments, except ``proposal_nums`` and ``metric_items``.
    """

    _coco_api: COCO | None
    cat_ids: list[int] | None

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
        super().__init__(
            ann_file=ann_file,
            metric=metrics,
            proposal_nums=(1, 10, 100),
            metric_items=list(_ITEMS),
            **kwargs,
        )
        self.backend = backend

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate; keys are ``"<bbox or segm>_<figure>"``.

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
        figures: dict[str, float] = {}
        for kind in self.metrics:
            figures |= self._evaluate(truth, predictions, kind)
        return figures

    def _ground_truth(self, samples: Sequence[dict]) -> COCO:
        if self._coco_api is None:
            with tempfile.TemporaryDirectory() as folder:
                prefix = self.outfile_prefix or str(Path(folder) / "results")
                path = self.gt_to_coco_json(samples, prefix)
                self._coco_api = COCO(path)
        return self._coco_api

    def _evaluate(self, truth: COCO, predictions: list[dict], kind: str) -> dict[str, float]:
        if kind == "segm" and any("masks" not in one for one in predictions):
            raise UserError("the detector gives no masks: take metric='bbox' of the evaluator")
        logger = MMLogger.get_current_instance()
        logger.info(f"Evaluating {kind}...")
        category_ids = self.cat_ids or []
        annotations = to_annotations(predictions, kind, category_ids)
        if not annotations:
            logger.warning("nothing was detected in any image")
        evaluation = evaluate(
            truth,
            annotations,
            kind,
            backend=choose_backend(self.backend, truth),
            category_ids=category_ids,
            iou_thresholds=self.iou_thrs,
            detections=self.proposal_nums,
            say=logger.info,
            processes=self.use_mp_eval,
        )
        figures = {}
        if self.classwise:
            names = {category: truth.cats[category]["name"] for category in category_ids}
            by_class = figures_of_classes(evaluation, names)
            figures = {f"{name}_precision": round(ap["mAP"], 3) for name, ap in by_class.items()}
            logger.info("\n" + _table_of_classes(by_class))
        stats = zip(_ITEMS, evaluation.stats, strict=True)
        return figures | {f"{kind}_{name}": round(float(value), 3) for name, value in stats}


def _table_of_classes(by_class: dict[str, dict[str, float]]) -> str:
    rows = [["category", *next(iter(by_class.values()), {})]]
    rows += [[name, *(f"{ap:.3f}" for ap in aps.values())] for name, aps in by_class.items()]
    return AsciiTable(rows).table
