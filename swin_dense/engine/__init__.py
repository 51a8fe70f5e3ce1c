"""Training, testing and prediction, on mmengine's runner; what the tools in ``tools/`` call."""

from swin_dense.engine.metrics import MetricsHook
from swin_dense.engine.paint_hook import PaintHook
from swin_dense.engine.progress import ProgressHook

__all__ = ["MetricsHook", "PaintHook", "ProgressHook"]
