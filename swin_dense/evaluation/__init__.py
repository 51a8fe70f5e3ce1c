"""Metrics: importing this package registers them under the scope ``swin_dense``."""

from importlib.util import find_spec

__all__ = []
if find_spec("mmdet"):
    from swin_dense.evaluation.coco_metric import CocoMetric

    __all__ += ["CocoMetric"]
if find_spec("mmseg"):
    from swin_dense.evaluation.iou_metric import IoUMetric

    __all__ += ["IoUMetric"]
