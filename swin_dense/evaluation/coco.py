"""COCO's twelve figures, under their own names."""

from __future__ import annotations

from typing import Any

from mmdet.evaluation import CocoMetric as _MmdetCocoMetric

from swin_dense.registry import METRICS

# Where mmdet puts each of pycocotools' twelve figures. Its names for the recalls are those of
# 100, 300 and 1000 proposals, whatever `proposal_nums` says; here the limits are 1, 10 and 100.
_RENAMED = {
    "AR@100": "AR@1",
    "AR@300": "AR@10",
    "AR@1000": "AR@100",
    "AR_s@1000": "AR_s@100",
    "AR_m@1000": "AR_m@100",
    "AR_l@1000": "AR_l@100",
}
_ITEMS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", *_RENAMED)


@METRICS.register_module()
class CocoMetric(_MmdetCocoMetric):
    """Box and mask AP and AR as https://cocodataset.org/#detection-eval defines them.

    mmdet's metric counts up to 1000 detections of an image, and leaves AR out unless asked. This
    one counts up to 1, 10 and 100 of them, and reports all twelve figures for each of ``metric``:
    ``bbox_mAP, bbox_mAP_50, bbox_mAP_75, bbox_mAP_s, bbox_mAP_m, bbox_mAP_l, bbox_AR@1,
    bbox_AR@10, bbox_AR@100, bbox_AR_s@100, bbox_AR_m@100, bbox_AR_l@100``, and the same for
    ``segm``, each in [0, 1] to three decimals, or -1 where nothing could be counted.

    Args:
        ann_file: COCO JSON with the ground truth; without it, the ground truth is taken from the
            data samples.
        metric: ``"bbox"``, ``"segm"`` or a list of both.
        kwargs: mmdet's further arguments, except ``proposal_nums`` and ``metric_items``.
    """

    def __init__(
        self, ann_file: str | None = None, metric: str | list[str] = "bbox", **kwargs: Any
    ) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        if unknown := set(metrics) - {"bbox", "segm"}:
            raise ValueError(
                f"metric is 'bbox', 'segm' or a list of both, not {sorted(unknown)}; "
                "mmdet's own CocoMetric has the proposal metrics"
            )
        super().__init__(
            ann_file=ann_file,
            metric=metrics,
            proposal_nums=(1, 10, 100),
            metric_items=list(_ITEMS),
            **kwargs,
        )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate; keys are ``"<bbox or segm>_<figure>"``."""
        figures = super().compute_metrics(results)
        return {_own_name(name): value for name, value in figures.items()}


def _own_name(name: str) -> str:
    """Turn mmdet's ``bbox_AR@300`` into ``bbox_AR@10``; any other name stays."""
    metric, _, figure = name.partition("_")
    return f"{metric}_{_RENAMED[figure]}" if figure in _RENAMED else name
