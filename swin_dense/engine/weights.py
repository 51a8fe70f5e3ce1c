"""Loading a checkpoint into a whole model, with a report on the terminal."""

from collections.abc import Mapping
from typing import Any, cast

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from swin_dense.checkpoints import convert_checkpoint, load_converted
from swin_dense.engine.terminal.console import notify_user


def load_weights(
    model: nn.Module, checkpoint: Mapping[str, Any], source: str, exact: bool = True
) -> None:
    """Load a checkpoint of any wrapping and backbone layout, and print a report.

    The arguments and errors are those of :func:`swin_dense.checkpoints.convert_checkpoint` and
    :func:`swin_dense.checkpoints.load_converted`; the model may have mmengine's wrappers.
    """
    model = without_wrappers(model)
    converted, report = convert_checkpoint(model, checkpoint, source)
    load_converted(model, converted, report, exact)
    notify_user(str(report))


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model within those for distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model
