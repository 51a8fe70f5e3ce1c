"""Loading a checkpoint into a whole model, with a report on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from swin_dense.checkpoints import LoadReport, convert_checkpoint, load_converted
from swin_dense.engine.terminal.console import say


def load_weights(
    model: nn.Module, checkpoint: Mapping[str, Any], source: str, exact: bool = True
) -> None:
    """Load a checkpoint in any wrapping and backbone layout, and print a report.

    Args:
        model: a detector, a segmentor, or either wrapped for test-time augmentation.
        checkpoint: as read from a file.
        source: the file's name, for messages.
        exact: see :func:`swin_dense.checkpoints.load_converted`.

    Raises:
        UserError: the weights are of another model.
    """
    model = without_wrappers(model)
    converted, report = convert_checkpoint(model, checkpoint, source)
    load_converted(model, converted, report, exact)
    print_report(report)


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model within those for distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def print_report(report: LoadReport) -> None:
    """Print what was loaded, and that the model's other parameters start untrained."""
    say(str(report))
    if report.missing:
        say(f"{len(report.missing)} parameters are missing; these start untrained")
