"""Parameters, multiply-accumulates and speed of models: what the reproduction tools report."""

from swin_dense.analysis.counting import Counts, count_config

__all__ = ["Counts", "count_config"]
