"""Pages to look at: what a run, several runs or a data set are like, each in one HTML file."""

from swin_dense.reports.hook import ReportHook

__all__ = ["ReportHook"]
