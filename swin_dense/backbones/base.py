"""What all backbones share: weights in any layout, initialisation, freezing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from torch import nn

from swin_dense.checkpoints import (
    LoadableBackbone,
    LoadReport,
    load_backbone,
    load_checkpoint,
    local_file,
)
from swin_dense.checkpoints.loading import convert_before_loading
from swin_dense.ops.torch_versions import register_load_state_dict_pre_hook


class Backbone(BaseModule, LoadableBackbone):
    """A backbone whose weights are recognised, resized and reported on every way of loading.

    A subclass calls ``super().__init__``, builds its layers, and then calls :meth:`freeze`; it
    implements :meth:`frozen_parts`, :meth:`init_from_scratch` and :meth:`to_native`.

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=path or URL)``, or None.
        frozen_stages: -1 trains everything; what 0 and more freeze, the subclass says.
    """

    init_cfg: dict[str, Any] | None

    def __init__(self, init_cfg: dict | None, frozen_stages: int) -> None:
        super().__init__(init_cfg=init_cfg)
        self.frozen_stages = frozen_stages
        # A pre-hook acts for every caller: this module, a detector that has it, the runner.
        register_load_state_dict_pre_hook(self, _convert_weights)

    def frozen_parts(self) -> Iterable[nn.Module | nn.Parameter]:
        """What ``frozen_stages`` freezes, if it is 0 or more."""
        raise NotImplementedError

    def init_from_scratch(self) -> None:
        """Initialise all parameters as the official code does."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Initialise from ``init_cfg``'s checkpoint, or from scratch.

        Raises:
            UserError: the checkpoint cannot be found or read, or holds little of this backbone.
        """
        self.init_from_scratch()  # with a checkpoint too: it need not have every parameter
        if self.init_cfg is not None:
            source = self.init_cfg["checkpoint"]
            log_load_report(load_backbone(self, load_checkpoint(local_file(source)), source))
        self._is_init = True

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode; what is frozen stays in evaluation mode. Returns self."""
        super().train(mode)
        self.freeze()
        return self

    def freeze(self) -> None:
        """Freeze :meth:`frozen_parts`.

        Already when the model is built: DDP looks for trained parameters before ``train()``.
        """
        if self.frozen_stages < 0:
            return
        for part in self.frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
            part.requires_grad_(False)


def init_linear_layers(module: nn.Module) -> None:
    """Initialise linear layers as ViT does: truncated normal weights, zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def log_load_report(report: LoadReport) -> None:
    """Log a report, marked for the user: the tools keep the rest of the log off the terminal."""
    MMLogger.get_current_instance().info(str(report), extra={"for_user": True})


def _convert_weights(
    backbone: LoadableBackbone, state_dict: dict[str, Any], prefix: str, *_: object
) -> None:
    """Pre-hook of ``load_state_dict``: takes weights in any layout and size."""
    report = convert_before_loading(backbone, state_dict, prefix)
    if report is not None:
        log_load_report(report)
