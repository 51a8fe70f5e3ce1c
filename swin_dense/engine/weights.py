"""Putting the weights of a checkpoint into a model, or saying why they do not fit."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseTTAModel
from torch import Tensor, nn

from swin_dense.backbones import SwinTransformer
from swin_dense.checkpoints import LoadReport, adapt, find_backbone, weights_of
from swin_dense.checkpoints.loading import first, is_enough
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError

_STATISTICS = ("running_mean", "running_var")
_SIZE_MISMATCH = re.compile(r"size mismatch for (\S+?): ")
_ADVICE = "give the config it was trained with"


def load_weights(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    source: str,
    exact: bool = True,
    revise_keys: list[tuple[str, str]] | None = None,
) -> None:
    """Loads a checkpoint, however wrapped and in whatever layout its Swin is, and reports it.

    Args:
        model: a detector, a segmentor, or either wrapped for test-time augmentation.
        checkpoint: as read from a file.
        source: the file's name, for messages.
        exact: every parameter and batch norm statistic of the model must be there; otherwise
            some may be missing, which is said, but not all, and of a Swin at most 5 %.
        revise_keys: regular expressions and their replacements in the names of the weights.

    Raises:
        UserError: the weights are of another model.
    """
    adapted, report = adapt_checkpoint(model, checkpoint, source, revise_keys)
    load_adapted(model, adapted["state_dict"], report, exact)


def adapt_checkpoint(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    source: str,
    revise_keys: list[tuple[str, str]] | None = None,
) -> tuple[dict[str, Any], LoadReport]:
    """A checkpoint whose ``state_dict`` has the model's names, and what is known of it so far.

    Takes off wrappers and prefixes, and brings the weights of a Swin into its layout and sizes.

    Raises:
        UserError: less than 95 % of a Swin's parameters are there.
    """
    state = _revised(weights_of(checkpoint), revise_keys or [])
    report = LoadReport(source, layout="")
    for name, backbone in _swins(model).items():
        state = _adapted(state, name, backbone, report)
    around = {key: value for key, value in checkpoint.items() if not isinstance(value, Tensor)}
    return around | {"state_dict": state}, report


def load_adapted(model: nn.Module, state: Mapping, report: LoadReport, exact: bool) -> None:
    """Loads what :func:`adapt_checkpoint` gave and prints one report.

    Raises:
        UserError: parameters are missing, all of them or, if ``exact``, any.
    """
    model = _bare(model)
    needed = _needed_names(model)
    mismatched = _load_fitting(model, state)
    absent = [name for name in needed if name in mismatched.missing]
    wrong = [name for name in needed if name in mismatched.sizes]
    bad = absent + wrong
    if bad and (exact or len(bad) == len(needed)):
        problem = _describe(bad, wrong, len(needed))
        raise UserError(f"checkpoint {report.source} is of another model: {problem}; {_ADVICE}")
    report.missing = bad
    report.loaded = [name for name in needed if name not in mismatched.missing | mismatched.sizes]
    report.unexpected = [*mismatched.unexpected, *wrong]
    notify_user(str(report))
    if bad:
        notify_user(f"{_describe(bad, wrong, len(needed))}; these start untrained")


def load_exactly(model: nn.Module, checkpoint: Mapping[str, Any], source: str) -> None:
    """Loads what this package saved, to resume from it: as it is, without conversion or report.

    Raises:
        UserError: any parameter is missing or of another size.
    """
    model = _bare(model)
    needed = _needed_names(model)
    mismatched = _load_fitting(model, _revised(checkpoint.get("state_dict", checkpoint), []))
    wrong = [name for name in needed if name in mismatched.sizes]
    bad = [name for name in needed if name in mismatched.missing] + wrong
    if bad:
        problem = _describe(bad, wrong, len(needed))
        raise UserError(f"checkpoint {source} is of another model: {problem}; {_ADVICE}")


def _bare(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, BaseTTAModel) else model


def _swins(model: nn.Module) -> dict[str, SwinTransformer]:
    modules = _bare(model).named_modules()
    return {name: module for name, module in modules if isinstance(module, SwinTransformer)}


def _adapted(state: Mapping, name: str, backbone: SwinTransformer, report: LoadReport) -> Mapping:
    """The state dict with one backbone's weights in its layout and sizes; notes what was done."""
    prefix = f"{name}." if name else ""
    state = _at_home(state, prefix)
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    weights, found = adapt(backbone, own, report.source)
    if not is_enough(backbone, found):
        total = len(found.missing) + len(found.loaded)
        raise UserError(
            f"checkpoint {report.source} is of another model: {len(found.missing)} of {total} "
            f"backbone parameters missing, first {first(found.missing)} ({found.layout} layout); "
            f"{_ADVICE}"
        )
    report.layout = found.layout
    report.resized += [prefix + key for key in found.resized]
    adapted = OrderedDict((k, v) for k, v in state.items() if not k.startswith(prefix))
    adapted.update((prefix + key, value) for key, value in weights.items())
    return _with_versions(adapted, state)


def _at_home(state: Mapping, prefix: str) -> Mapping:
    """The state dict with its Swin under ``prefix``, wherever it was."""
    if any(key.startswith(prefix) for key in state):
        return state
    found = find_backbone(state)
    if found is None:
        return state
    if not found.prefix.endswith(prefix):  # a backbone or classifier, or another library's model
        return found.rest | {prefix + key: value for key, value in found.state.items()}
    around = found.prefix.removesuffix(prefix)
    return {k.removeprefix(around): v for k, v in state.items() if k.startswith(around)}


class _Mismatch:
    def __init__(self, missing: set[str], sizes: set[str], unexpected: list[str]) -> None:
        self.missing, self.sizes, self.unexpected = missing, sizes, unexpected


def _load_fitting(model: nn.Module, state: Mapping) -> _Mismatch:
    """Loads what fits; torch loads the rest of the weights before it reports wrong sizes."""
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        sizes = set(_SIZE_MISMATCH.findall(str(error)))
        if not sizes:
            raise
        rest = OrderedDict((k, v) for k, v in state.items() if k not in sizes)
        result = model.load_state_dict(rest, strict=False)
        return _Mismatch(set(result.missing_keys) - sizes, sizes, result.unexpected_keys)
    return _Mismatch(set(result.missing_keys), set(), result.unexpected_keys)


def _needed_names(model: nn.Module) -> list[str]:
    """Parameters and batch norm statistics; other buffers follow from the architecture."""
    names = [name for name, _ in model.named_parameters()]
    return names + [name for name, _ in model.named_buffers() if name.endswith(_STATISTICS)]


def _describe(bad: list[str], wrong: list[str], total: int) -> str:
    kind = "of another size" if len(wrong) == len(bad) else "missing"
    if wrong and len(wrong) < len(bad):
        kind = "missing or of another size"
    return f"{len(bad)} of {total} parameters {kind}, first {first(bad)}"


def _revised(state: Mapping, revise_keys: list[tuple[str, str]]) -> Mapping:
    """The state dict with renamed weights."""
    renamed = OrderedDict()
    for key, value in state.items():
        for pattern, replacement in revise_keys:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return _with_versions(renamed, state)


def _with_versions(state: OrderedDict, original: Mapping) -> Mapping:
    """Keeps torch's version metadata, by which modules tell how old weights are."""
    if hasattr(original, "_metadata"):
        state._metadata = original._metadata  # type: ignore[attr-defined]
    return state
