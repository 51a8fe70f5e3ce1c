"""mmseg's IoU metrics, for each class too."""

from typing import Any

from mmseg.evaluation import IoUMetric as _MmsegIoUMetric

from swin_dense.registry import METRICS


@METRICS.register_module()
class IoUMetric(_MmsegIoUMetric):
    """Intersection over union and accuracy of a segmentor, in percent.

    Args:
        classwise: add ``IoU_NAME``, ``Acc_NAME`` (and what else ``iou_metrics`` ask for) of each
            class, nan where it has no pixels.
        kwargs: mmseg's arguments.
    """

    def __init__(self, classwise: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classwise = classwise

    def compute_metrics(self, results: list) -> dict[str, float]:
        """mmseg's, and those of each class."""
        metrics = super().compute_metrics(results)
        if not self.classwise or self.format_only:
            return metrics
        areas = [sum(area) for area in zip(*results, strict=True)]
        by_class = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)
        names = self.dataset_meta["classes"]
        for kind in [kind for kind in by_class if kind != "aAcc"]:
            for name, value in zip(names, by_class[kind], strict=True):
                metrics[f"{kind}_{name}"] = round(float(value) * 100, 2)
        return metrics
