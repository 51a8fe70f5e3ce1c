"""Loading of weights into backbones and whole models: convert, resize, check, report."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from swin_dense.checkpoints.contents import as_shape_error
from swin_dense.checkpoints.files import strip_prefixes, weights_of
from swin_dense.checkpoints.layouts import SWIN, find_backbone
from swin_dense.checkpoints.layouts.base import State
from swin_dense.checkpoints.resizing import resize_weights
from swin_dense.errors import UserError

# With less than this share of its parameters, a backbone is not usefully initialised.
_MIN_COVERAGE = 0.95
_STATISTICS = ("running_mean", "running_var")
_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")
_SIZE_MISMATCH = re.compile(r"size mismatch for (\S+): .*?\(\[(.*?)\]\).*\(\[(.*?)\]\)")

# Two copies of a detector in one model of mmdet's, as in Soft Teacher.
_PAIR = ("student", "teacher")

_conversion_enabled = ContextVar("conversion_enabled", default=True)


class LoadableBackbone(nn.Module):
    """A backbone that accepts weights in other layouts and sizes than its own."""

    native_layout: str
    """Name of the layout of the backbone's own state dict."""

    new_parameter_prefixes: tuple[str, ...] = ()
    """Parameters that no pretrained checkpoint has, so that their absence is no error."""

    def to_native(self, state: State, own: Mapping[str, Tensor]) -> tuple[State, str, list[str]]:
        """Convert weights to this backbone's parameter names and, where possible, its sizes.

        Args:
            state: weights in any layout, possibly below a prefix and among others.
            own: this backbone's parameters and buffers.

        Returns:
            The weights, the name of the layout that they came in, the names of resized ones.
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
    other_sizes: dict[str, str] = field(default_factory=dict)
    """Of the missing ones, those that have another size in the checkpoint: both sizes."""
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        layout = f" ({self.layout} layout)" if self.layout else ""
        resized = f", {len(self.resized)} of them resized" if self.resized else ""
        lines = [f"Weights from {self.source}{layout}: {len(self.loaded)} loaded{resized}"]
        fitted = [f"{name} {sizes}" for name, sizes in self.other_sizes.items()]
        untrained = "; these start untrained"
        missing = [name for name in self.missing if name not in self.other_sizes]
        for title, names, note in (
            ("resized", self.resized, ""),
            ("of other sizes", fitted, untrained),
            ("missing", missing, untrained),
            ("unexpected", self.unexpected, ""),
        ):
            if names:
                lines.append(f"  {title} ({len(names)}): {first(names)}{note}")
        return "\n".join(lines)

    def error(self) -> UserError:
        """The error for weights that leave too much of a model or backbone uninitialised."""
        count = f"{len(self.missing)} of {len(self.loaded) + len(self.missing)}"
        layout = f" ({self.layout} layout)" if self.layout else ""
        others = [f"{name} {sizes}" for name, sizes in self.other_sizes.items()] + self.unexpected
        unexpected = f"; unexpected: {first(others)}" if others else ""
        return UserError(
            f"checkpoint {self.source} is of another model: {count} parameters "
            f"missing or of another size, first {first(self.missing)}{layout}{unexpected}; "
            "give the config it was trained with, or weights of the same architecture"
        )


def first(names: list[str], count: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def convert_and_resize(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    grid: tuple[int, int],
    bias_tables: str = "bicubic",
) -> tuple[State, str, list[str]]:
    """:meth:`LoadableBackbone.to_native` of Swin, from any known layout.

    Args:
        state, own: see there.
        grid: patches (rows, columns) of the backbone's absolute position embedding.
        bias_tables: how these are resized, see :func:`.resizing.resize_weights`.

    Raises:
        UserError: they are weights of another architecture.
    """
    match = find_backbone(state)
    if match is not None:
        match.require(SWIN)
    native = strip_prefixes(state) if match is None else match.layout.to_openmmlab(match.state)
    weights, resized = resize_weights(native, own, grid, bias_tables)
    return weights, "unknown" if match is None else match.layout.name, resized


def has_min_coverage(backbone: LoadableBackbone, report: LoadReport) -> bool:
    """Whether 95 % of the parameters that checkpoints have are loaded, by number of values."""
    new = backbone.new_parameter_prefixes
    sizes = {k: p.numel() for k, p in backbone.named_parameters() if not k.startswith(new)}
    return sum(sizes.get(key, 0) for key in report.loaded) >= _MIN_COVERAGE * sum(sizes.values())


def convert_state_dict(
    backbone: LoadableBackbone, state_dict: dict[str, Any], prefix: str, source: str
) -> LoadReport:
    """Convert a backbone's weights in a state dict, in place: once on every way of loading.

    Args:
        backbone: the module that is to receive them.
        state_dict: of the backbone or of the model around it.
        prefix: of the backbone in the model; below it, any layout and wrapping is accepted.
        source: path or URL, for the report and the error.

    Raises:
        UserError: less than 95 % of the backbone's parameters are there, or one is of a size that
            is not resized.
    """
    below = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    own = dict(backbone.named_parameters()) | dict(backbone.named_buffers())
    with as_shape_error():
        weights, layout, resized = backbone.to_native(weights_of(below), own)
    report = LoadReport(source, layout, resized=resized)
    for key, parameter in backbone.named_parameters():
        fits = key in weights and weights[key].shape == parameter.shape
        (report.loaded if fits else report.missing).append(key)
    other_sizes = [key for key in report.missing if key in weights]
    report.other_sizes = {
        key: f"{tuple(weights[key].shape)} for {tuple(own[key].shape)}" for key in other_sizes
    }
    report.unexpected = [key for key in weights if key not in own]
    _check_depths(own, weights, source)
    if other_sizes or not has_min_coverage(backbone, report):
        raise report.error()
    for key in below:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in weights.items()})
    return report


def _check_depths(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """Raise a UserError if the stages of a backbone have other numbers of blocks in a checkpoint.

    Of a deeper one, such as Swin-S for Swin-T, all parameters would be found.
    """
    there, here = _depths(weights), _depths(own)
    if any(there[stage] != here[stage] for stage in here.keys() & there.keys()):
        raise UserError(
            f"checkpoint {source} is of another model: its stages have "
            f"{', '.join(map(str, there.values()))} blocks, those of the config's backbone "
            f"{', '.join(map(str, here.values()))}: give its arch or depths in the config, or "
            "weights of the same architecture"
        )


def _depths(names: Iterable[str]) -> dict[int, int]:
    """How many blocks each stage has."""
    found = [(int(match[1]), int(match[2]) + 1) for match in map(_BLOCK.match, names) if match]
    return {
        stage: max(n for s, n in found if s == stage) for stage in sorted({s for s, _ in found})
    }


def convert_before_loading(
    backbone: LoadableBackbone, state_dict: dict[str, Any], prefix: str
) -> LoadReport | None:
    """The pre-hook of ``load_state_dict``; a report if anything was converted or resized."""
    if not _conversion_enabled.get() or not any(key.startswith(prefix) for key in state_dict):
        return None
    report = convert_state_dict(backbone, state_dict, prefix, "the state dict")
    return report if report.layout != backbone.native_layout or report.resized else None


@contextmanager
def no_conversion() -> Iterator[None]:
    """Make ``load_state_dict`` take weights as they are: converted, or saved by this package."""
    token = _conversion_enabled.set(False)
    try:
        yield
    finally:
        _conversion_enabled.reset(token)


def load_backbone(
    backbone: LoadableBackbone, checkpoint: Mapping[str, Any], source: str
) -> LoadReport:
    """Load the backbone of a classifier, detector or segmentor, as read from a file.

    The output norms of a classifier's checkpoint are always missing: classification has none.

    Raises:
        UserError: the checkpoint holds less than 95 % of the backbone's parameters, or one of a
            size that is not resized.
    """
    converted, report = convert_checkpoint(backbone, checkpoint, source)
    load_converted(backbone, converted, report, exact=False)
    return report


def convert_checkpoint(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    source: str,
    revise_keys: Sequence[tuple[str, str]] = ((r"^module\.", ""),),
) -> tuple[dict[str, Any], LoadReport]:
    """Convert the weights of a checkpoint to a model's parameter names and backbone sizes.

    A student and its teacher both get the weights of a detector that is neither.

    Args:
        model: a detector, a segmentor or a backbone.
        checkpoint: as read from a file; its entries other than weights are kept.
        source: path or URL, for the report and the error.
        revise_keys: regular expressions and their replacements in the names of the weights.

    Returns:
        The checkpoint, with the weights as ``state_dict``, and a report of what was converted.

    Raises:
        UserError: less than 95 % of a backbone's parameters are there, or one is of a size that is
            not resized.
    """
    state = weights_of(checkpoint)
    for pattern, replacement in revise_keys:
        for key in list(state):
            state[re.sub(pattern, replacement, key)] = state.pop(key)
    report = LoadReport(source)
    has_pair = set(_PAIR) <= {name for name, _ in model.named_children()}
    if has_pair and not any(set(_PAIR) & {*key.split(".")} for key in state):
        _convert_weights(model.get_submodule("teacher"), state, report)
        state = {f"{part}.{key}": value for part in _PAIR for key, value in state.items()}
        report.resized = [f"{part}.{key}" for part in _PAIR for key in report.resized]
    else:
        _convert_weights(model, state, report)
    others = {key: value for key, value in checkpoint.items() if not isinstance(value, Tensor)}
    return others | {"state_dict": state}, report


def _convert_weights(model: nn.Module, state: State, report: LoadReport) -> None:
    """Convert, in place, what each backbone of a model is to receive."""
    for name, backbone in model.named_modules():
        if isinstance(backbone, LoadableBackbone):
            prefix = f"{name}." if name else ""
            _relocate(state, prefix)
            found = convert_state_dict(backbone, state, prefix, report.source)
            report.layout = found.layout
            report.resized += [prefix + key for key in found.resized]


def _relocate(state: State, prefix: str) -> None:
    """Move the Swin backbone in a state dict to ``prefix``, unless there are weights."""
    match = None if any(key.startswith(prefix) for key in state) else find_backbone(state)
    if match is None:
        return
    if match.prefix.endswith(prefix):
        around = match.prefix.removesuffix(prefix)
        moved = {k.removeprefix(around): v for k, v in state.items() if k.startswith(around)}
    else:  # a backbone or classifier, or another library's model
        moved = match.other_weights | {prefix + key: v for key, v in match.state.items()}
    state.clear()
    state.update(moved)


def load_converted(
    model: nn.Module, checkpoint: Mapping[str, Any], report: LoadReport, exact: bool
) -> None:
    """Load a checkpoint that has the model's own parameter names.

    Args:
        model: receives the weights.
        checkpoint: from :func:`convert_checkpoint`, or saved by this package.
        report: names the source; gets what was loaded, missing and unexpected.
        exact: require every parameter and batch norm statistic of the model, not only one.

    Raises:
        UserError: more than ``exact`` allows is missing or of another size.
    """
    results: list[Any] = []
    hook = model.register_load_state_dict_post_hook(lambda _, result: results.append(result))
    mismatches: list[tuple[str, str, str]] = []
    try:
        with no_conversion():
            model.load_state_dict(checkpoint.get("state_dict", checkpoint), strict=False)
    except RuntimeError as error:  # raised after everything that fits was loaded
        mismatches = _SIZE_MISMATCH.findall(str(error))
        if not mismatches:
            raise
    finally:
        hook.remove()
    # Other buffers than the statistics follow from the architecture.
    required = [name for name, _ in model.named_parameters()]
    required += [name for name, _ in model.named_buffers() if name.endswith(_STATISTICS)]
    absent = {*results[0].missing_keys, *(name for name, *_ in mismatches)}
    report.missing = [name for name in required if name in absent]
    report.loaded = [name for name in required if name not in absent]
    report.unexpected = list(results[0].unexpected_keys)
    report.other_sizes = {name: f"({there}) for ({own})" for name, there, own in mismatches}
    if report.missing and (exact or not report.loaded):
        raise report.error()
