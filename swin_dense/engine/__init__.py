"""Training, testing and prediction, on mmengine's runner; what the tools in ``tools/`` call."""

from swin_dense.engine.drawing import DrawHook
from swin_dense.engine.terminal.metrics import MetricsHook
from swin_dense.engine.terminal.progress import ProgressHook

__all__ = ["DrawHook", "MetricsHook", "ProgressHook"]
