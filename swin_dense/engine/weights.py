"""Loading a checkpoint into a whole model, with a report or an error."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseTTAModel
from torch import Tensor, nn

from swin_dense.checkpoints import (
    LoadableBackbone,
    LoadReport,
    convert_state_dict,
    find_backbone,
    no_conversion,
    weights_of,
)
from swin_dense.engine.terminal.console import say

_STATISTICS = ("running_mean", "running_var")
_SIZE_MISMATCH = re.compile(r"size mismatch for (\S+?): ")


def load_weights(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    source: str,
    exact: bool = True,
    revise_keys: list[tuple[str, str]] | None = None,
) -> None:
    """Load a checkpoint in any wrapping and backbone layout, and report the result.

    Args:
        model: a detector, a segmentor, or either wrapped for test-time augmentation.
        checkpoint: as read from a file.
        source: the file's name, for messages.
        exact: require every parameter and batch norm statistic of the model. Otherwise only 95 %
            of the backbone's are required, and the report lists what is missing.
        revise_keys: regular expressions and their replacements in the names of the weights.

    Raises:
        UserError: the weights are of another model.
    """
    converted, report = convert_checkpoint(model, checkpoint, source, revise_keys)
    load_converted(model, converted, report, exact)
    report_to_user(report)


def convert_checkpoint(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    source: str,
    revise_keys: list[tuple[str, str]] | None = None,
) -> tuple[dict[str, Any], LoadReport]:
    """A checkpoint whose ``state_dict`` has the model's parameter names and backbone sizes.

    Takes off wrappers and prefixes. Entries that hold no weights are kept. The report knows the
    layout and what was resized.

    Raises:
        UserError: less than 95 % of a backbone's parameters are there.
    """
    weights = weights_of(checkpoint)
    state: dict[str, Any] = {_revise(key, revise_keys or []): v for key, v in weights.items()}
    report = LoadReport(source)
    for name, backbone in _without_tta(model).named_modules():
        if isinstance(backbone, LoadableBackbone):
            prefix = f"{name}." if name else ""
            state = _relocate(state, prefix)
            found = convert_state_dict(backbone, state, prefix, source)
            report.layout = found.layout
            report.resized += [prefix + key for key in found.resized]
    converted = OrderedDict(state)
    if hasattr(weights, "_metadata"):  # the versions of modules, by which they convert old weights
        converted._metadata = weights._metadata  # type: ignore[attr-defined]
    others = {key: value for key, value in checkpoint.items() if not isinstance(value, Tensor)}
    return others | {"state_dict": converted}, report


def load_converted(
    model: nn.Module, checkpoint: Mapping[str, Any], report: LoadReport, exact: bool
) -> None:
    """Load a checkpoint with the model's own parameter names, and complete the report.

    Args:
        model: see :func:`load_weights`.
        checkpoint: from :func:`convert_checkpoint`, or one that this package saved.
        report: names the source; gets what was loaded, missing and unexpected.
        exact: see :func:`load_weights`.

    Raises:
        UserError: parameters are missing or of another size: any if ``exact``, else all.
    """
    model = _without_tta(model)
    state = checkpoint.get("state_dict", checkpoint)
    results: list[Any] = []
    hook = model.register_load_state_dict_post_hook(lambda _, result: results.append(result))
    wrong_size: list[str] = []
    try:
        with no_conversion():
            model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # raised after everything that fits was loaded
        wrong_size = _SIZE_MISMATCH.findall(str(error))
        if not wrong_size:
            raise
    finally:
        hook.remove()
    absent = {*results[0].missing_keys, *wrong_size}
    for name in _required_names(model):
        (report.missing if name in absent else report.loaded).append(name)
    report.unexpected = [*results[0].unexpected_keys, *wrong_size]
    if report.missing and (exact or not report.loaded):
        raise report.error()


def report_to_user(report: LoadReport) -> None:
    """Print a report, and what missing parameters mean."""
    say(str(report))
    if report.missing:
        say(f"{len(report.missing)} parameters were not found; these start untrained")


def _without_tta(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, BaseTTAModel) else model


def _relocate(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The state dict with its Swin backbone under ``prefix``, wherever it was."""
    if any(key.startswith(prefix) for key in state):
        return state
    match = find_backbone(state)
    if match is None:
        return state
    if not match.prefix.endswith(prefix):  # a backbone or classifier, or another library's model
        return match.other_weights | {prefix + key: value for key, value in match.state.items()}
    around = match.prefix.removesuffix(prefix)
    return {k.removeprefix(around): v for k, v in state.items() if k.startswith(around)}


def _required_names(model: nn.Module) -> list[str]:
    """Parameters and batch norm statistics; other buffers follow from the architecture."""
    names = [name for name, _ in model.named_parameters()]
    return names + [name for name, _ in model.named_buffers() if name.endswith(_STATISTICS)]


def _revise(key: str, revise_keys: list[tuple[str, str]]) -> str:
    for pattern, replacement in revise_keys:
        key = re.sub(pattern, replacement, key)
    return key
