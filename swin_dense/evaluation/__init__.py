"""Metrics and test-time augmentation, registered under the scope ``swin_dense``."""

from swin_dense.evaluation.coco import CocoMetric
from swin_dense.evaluation.instance_tta import InstanceTTAModel

__all__ = ["CocoMetric", "InstanceTTAModel"]
