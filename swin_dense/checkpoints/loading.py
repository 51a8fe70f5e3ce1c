"""Loading of backbone weights: convert, resize, check, report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from swin_dense.checkpoints.layouts import State, find_backbone
from swin_dense.checkpoints.resizing import resize_weights
from swin_dense.checkpoints.wrappers import strip_prefixes, weights_of
from swin_dense.errors import UserError

# With less than this share of its parameters, a backbone is not usefully initialised.
_MIN_COVERAGE = 0.95

_conversion_enabled = ContextVar("conversion_enabled", default=True)


class NativeWeights(NamedTuple):
    """A backbone's weights under its own parameter names and, where possible, at its own sizes.

    Args:
        state: the weights.
        layout: name of the layout that they came in.
        resized: names of those that were resized.
    """

    state: State
    layout: str
    resized: list[str]


class LoadableBackbone(nn.Module):
    """A backbone that accepts weights in other layouts and sizes than its own."""

    native_layout: str
    """Name of the layout of the backbone's own state dict."""

    new_parameter_prefixes: tuple[str, ...] = ()
    """Parameters that no pretrained checkpoint has, so that their absence is no error."""

    def to_native(self, state: State, own: Mapping[str, Tensor]) -> NativeWeights:
        """Convert weights to this backbone's parameter names and sizes.

        Args:
            state: weights in any layout, possibly below a prefix and among others.
            own: this backbone's parameters and buffers.
        """
        raise NotImplementedError


@dataclass
class LoadReport:
    """The result of loading a checkpoint: names of parameters, and the layout they came in."""

    source: str
    layout: str = ""
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

    def error(self) -> UserError:
        """The error for weights that leave too much of a model or backbone uninitialised."""
        total = len(self.loaded) + len(self.missing)
        layout = f" ({self.layout} layout)" if self.layout else ""
        unexpected = f"; unexpected: {first(self.unexpected)}" if self.unexpected else ""
        return UserError(
            f"checkpoint {self.source} is of another model: {len(self.missing)} of {total} "
            f"parameters missing, first {first(self.missing)}{layout}{unexpected}; "
            "give the config it was trained with, or weights of the same architecture"
        )


def first(names: list[str], count: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "none") + more


def convert_and_resize(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], grid: tuple[int, int]
) -> NativeWeights:
    """Swin weights in OpenMMLab's layout and at a backbone's sizes.

    Args:
        state: weights in any known layout, below any prefix.
        own: parameters and buffers of the Swin backbone that is to receive them.
        grid: patches (rows, columns) of its absolute position embedding.
    """
    match = find_backbone(state)
    native = strip_prefixes(state) if match is None else match.in_openmmlab()
    weights, resized = resize_weights(native, own, grid)
    return NativeWeights(weights, "unknown" if match is None else match.layout.name, resized)


def has_min_coverage(backbone: LoadableBackbone, report: LoadReport) -> bool:
    """Whether the loaded parameters are at least 95 % of the backbone's, by number of values.

    Those below ``backbone.new_parameter_prefixes`` are not counted.
    """
    sizes = {
        key: parameter.numel()
        for key, parameter in backbone.named_parameters()
        if not key.startswith(backbone.new_parameter_prefixes)
    }
    return sum(sizes.get(key, 0) for key in report.loaded) >= _MIN_COVERAGE * sum(sizes.values())


def convert_state_dict(
    backbone: LoadableBackbone, state_dict: dict[str, Any], prefix: str, source: str
) -> LoadReport:
    """Convert a backbone's weights in a state dict, in place. Every way of loading comes here once.

    Args:
        backbone: the module that is to receive them.
        state_dict: a state dict of the backbone or of the model around it.
        prefix: what precedes the backbone's weights, such as ``backbone.``; below it they may be
            in any layout and wrapping.
        source: path or URL, for the report and the error.

    Returns:
        The result of loading them.

    Raises:
        UserError: less than 95 % of the backbone's parameters are there.
    """
    below = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    own = dict(backbone.named_parameters()) | dict(backbone.named_buffers())
    weights, layout, resized = backbone.to_native(weights_of(below), own)
    report = LoadReport(source, layout, resized=resized)
    for key, value in weights.items():
        if key not in own:
            report.unexpected.append(key)
        elif own[key].shape != value.shape:
            shapes = f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
            report.unexpected.append(shapes)
    for key, parameter in backbone.named_parameters():
        fits = key in weights and weights[key].shape == parameter.shape
        (report.loaded if fits else report.missing).append(key)
    if not has_min_coverage(backbone, report):
        raise report.error()
    for key in below:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in weights.items()})
    return report


def convert_before_loading(
    backbone: LoadableBackbone, state_dict: dict[str, Any], prefix: str
) -> LoadReport | None:
    """The pre-hook of ``load_state_dict``: convert what is below ``prefix``, in place.

    Returns:
        The result of loading, if anything was converted or resized; else None.

    Raises:
        UserError: there are weights below ``prefix``, but less than 95 % of the backbone's.
    """
    if not _conversion_enabled.get() or not any(key.startswith(prefix) for key in state_dict):
        return None
    report = convert_state_dict(backbone, state_dict, prefix, "the state dict")
    return report if report.layout != backbone.native_layout or report.resized else None


@contextmanager
def no_conversion() -> Iterator[None]:
    """Make ``load_state_dict`` take weights as they are.

    For weights that are converted already, or that this package saved.
    """
    token = _conversion_enabled.set(False)
    try:
        yield
    finally:
        _conversion_enabled.reset(token)


def load_backbone(
    backbone: LoadableBackbone, checkpoint: Mapping[str, Any], source: str
) -> LoadReport:
    """Load a checkpoint's backbone weights.

    Args:
        backbone: the module that receives them.
        checkpoint: a state dict, bare or wrapped, of a backbone, classifier, detector or segmentor.
        source: path or URL, for the report.

    Returns:
        What was loaded, resized, missing and unexpected. The output norms of a classifier's
        checkpoint are always missing: classification has none.

    Raises:
        UserError: the checkpoint holds less than 95 % of the backbone's parameters.
    """
    state = dict(checkpoint)
    report = convert_state_dict(backbone, state, "", source)
    own = backbone.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    with no_conversion():
        backbone.load_state_dict(fitting, strict=False)
    return report
