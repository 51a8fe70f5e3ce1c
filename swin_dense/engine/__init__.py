"""Training, testing and prediction, on mmengine's runner; what the tools in ``tools/`` call."""

from swin_dense.engine.checkpoint_hook import CheckpointHook
from swin_dense.engine.drawing import DrawHook
from swin_dense.engine.early_stopping import EarlyStoppingHook
from swin_dense.engine.finite_loss import FiniteLossHook
from swin_dense.engine.terminal.hooks import ProgressHook
from swin_dense.engine.terminal.metrics import MetricsHook
from swin_dense.engine.terminal.summary import SummaryHook

__all__ = [
    "CheckpointHook",
    "DrawHook",
    "EarlyStoppingHook",
    "FiniteLossHook",
    "MetricsHook",
    "ProgressHook",
    "SummaryHook",
]
