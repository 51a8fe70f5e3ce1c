"""mmseg's cross entropy with class weights, where label maps have ignored pixels."""

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from swin_dense.compat.import_hooks import Execute, Hook


def _with_ignored_pixels(execute: Execute, module: ModuleType) -> None:
    """Let the mean be over the weights of labels that are classes.

    The original looks up the weight of every label, and so fails at 255, which is ignored. For
    labels that are all classes, the number is the same.
    """
    execute(module)
    original = module.cross_entropy

    @functools.wraps(original)
    def cross_entropy(
        pred: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        class_weight: Tensor | None = None,
        reduction: str = "mean",
        avg_factor: Any = None,
        ignore_index: int = -100,
        avg_non_ignore: bool = False,
    ) -> Tensor:
        if class_weight is not None and avg_factor is None and reduction == "mean":
            counts = (label >= 0) & (label < len(class_weight))
            if avg_non_ignore:
                counts = counts & (label != ignore_index)
            weights = class_weight[torch.where(counts, label, 0)]
            avg_factor = torch.where(counts, weights, 0).sum()
        how = (weight, class_weight, reduction, avg_factor, ignore_index, avg_non_ignore)
        return original(pred, label, *how)

    vars(module)["cross_entropy"] = cross_entropy


HOOKS: dict[str, Hook] = {"mmseg.models.losses.cross_entropy_loss": _with_ignored_pixels}
