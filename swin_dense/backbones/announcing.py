"""Telling the user what became of pretrained weights."""

from __future__ import annotations

from mmengine.logging import MMLogger

from swin_dense.checkpoints import LoadReport


def announce(report: LoadReport) -> None:
    """Log a report, marked for the user: the tools keep all else of the log off the terminal."""
    MMLogger.get_current_instance().info(str(report), extra={"for_user": True})
