"""Loading of backbone weights: recognise, resize, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from swin_dense.checkpoints.fitting import fit
from swin_dense.checkpoints.layouts import State
from swin_dense.checkpoints.wrappers import backbone_of, weights_of
from swin_dense.errors import UserError

# Below this share of its parameters, a backbone has not been loaded in any useful sense.
_ENOUGH = 0.95


@dataclass
class LoadReport:
    """What became of a checkpoint: names of parameters, and the layout they came in."""

    source: str
    layout: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} loaded"
        if self.resized:
            counts += f", {len(self.resized)} of them resized"
        layout = f" ({self.layout} layout)" if self.layout else ""
        lines = [f"Weights from {self.source}{layout}: {counts}"]
        for title in ("resized", "missing", "unexpected"):
            names = getattr(self, title)
            if names:
                lines.append(f"  {title} ({len(names)}): {first(names)}")
        return "\n".join(lines)


def first(names: list[str], count: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "none") + more


def adapt(module: nn.Module, state: Mapping[str, Tensor], source: str) -> tuple[State, LoadReport]:
    """Bring the backbone's weights in a state dict into the layout and sizes of ``module``.

    Args:
        module: a :class:`swin_dense.SwinTransformer`.
        state: weights in any known layout, below any prefix.
        source: path or URL, for the report and the error.

    Returns:
        The weights, those that do not fit as they are, and what loading them will do.
    """
    bare, found = backbone_of(state)
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    grid = cast("tuple[int, int]", module.patch_grid)
    adapted, resized = fit(bare if found is None else found.in_openmmlab(), own, grid)
    layout = "unknown" if found is None else found.layout.name
    report = LoadReport(source, layout, resized=resized)
    for key, value in adapted.items():
        if key not in own:
            report.unexpected.append(key)
        elif own[key].shape != value.shape:
            shapes = f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
            report.unexpected.append(shapes)
    for key, parameter in module.named_parameters():
        there = key in adapted and adapted[key].shape == parameter.shape
        (report.loaded if there else report.missing).append(key)
    return adapted, report


def is_enough(module: nn.Module, report: LoadReport) -> bool:
    """Whether 95 % of a backbone's parameters are among those that a report calls loaded.

    Those below ``module.without_pretraining`` count as neither there nor missing.
    """
    return _share(module, report) >= _ENOUGH


def _share(module: nn.Module, report: LoadReport) -> float:
    new = cast("tuple[str, ...]", getattr(module, "without_pretraining", ()))
    sizes = {key: p.numel() for key, p in module.named_parameters() if not key.startswith(new)}
    return sum(sizes.get(key, 0) for key in report.loaded) / sum(sizes.values())


def _require_enough(module: nn.Module, report: LoadReport) -> None:
    if not is_enough(module, report):
        raise UserError(
            f"{report.source} holds {_share(module, report):.0%} of this backbone's parameters "
            f"({report.layout} layout); missing: {first(report.missing)}; not fitting: "
            f"{first(report.unexpected)}. Give weights of the same architecture"
        )


def load_backbone(module: nn.Module, checkpoint: Mapping[str, Any], source: str) -> LoadReport:
    """Load a checkpoint's backbone weights into ``module``.

    Args:
        module: a :class:`swin_dense.SwinTransformer`.
        checkpoint: a state dict, bare or wrapped, of a backbone, classifier, detector or segmentor.
        source: path or URL, for the report.

    Returns:
        What was loaded, resized, missing and unexpected. The output norms of a classifier's
        checkpoint are always missing: classification has none.

    Raises:
        UserError: the checkpoint holds less than 95 % of the backbone's parameters.
    """
    adapted, report = adapt(module, weights_of(checkpoint), source)
    _require_enough(module, report)
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    # Not by load_state_dict, whose hook would adapt, and report, once more.
    with torch.no_grad():
        for key, value in adapted.items():
            if key in own and own[key].shape == value.shape:
                own[key].copy_(value)
    return report


def adapt_state_dict(
    module: nn.Module, state_dict: dict[str, Any], prefix: str
) -> LoadReport | None:
    """Before ``load_state_dict``: :func:`adapt` what lies under ``prefix``, in place.

    Returns:
        What loading will do, where it is more than putting weights in their places; else None.

    Raises:
        UserError: there are weights under ``prefix``, but less than 95 % of the backbone's.
    """
    below = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if not below:
        return None
    adapted, report = adapt(module, weights_of(below), "the state dict")
    _require_enough(module, report)
    for key in below:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in adapted.items()})
    return report if report.layout != "openmmlab" or report.resized else None
