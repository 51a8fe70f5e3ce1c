"""Metrics: importing this package registers them under the scope ``swin_dense``."""

from swin_dense.evaluation.coco_metric import CocoMetric

__all__ = ["CocoMetric"]
