"""Loading of backbone weights: unwrap, recognise, resize, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, cast

from torch import Tensor, nn

from swin_dense.checkpoints.layouts import State, official_to_openmmlab, recognise
from swin_dense.checkpoints.resizing import resize_absolute_pos_embed, resize_bias_table
from swin_dense.errors import UserError

_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"
_ABSOLUTE = "absolute_pos_embed"
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
        counts = f"{len(self.loaded)} loaded ({len(self.resized)} of them resized)"
        lines = [f"Backbone weights from {self.source} ({self.layout} layout): {counts}"]
        for title in ("resized", "missing", "unexpected"):
            names = getattr(self, title)
            if names:
                lines.append(f"  {title} ({len(names)}): {_first(names)}")
        return "\n".join(lines)


def unwrap(checkpoint: Mapping[str, Any]) -> State:
    """The backbone's tensors in a checkpoint, whatever is wrapped around them.

    Takes off ``state_dict`` or ``model``, and the prefixes ``module.`` and ``backbone.``.
    """
    for name in ("state_dict", "model"):
        if isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    state = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    of_backbone = {
        key.removeprefix("backbone."): value
        for key, value in state.items()
        if key.startswith("backbone.")
    }
    return of_backbone or state


def adapt(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], grid: tuple[int, int]
) -> tuple[State, str, list[str]]:
    """Bring weights into a backbone's layout and sizes.

    Args:
        state: a bare backbone state dict in any layout of :mod:`swin_dense.checkpoints.layouts`.
        own: the state dict of the backbone that is to receive it.
        grid: patches (rows, columns) of the backbone's absolute position embedding.

    Returns:
        The weights, the layout that was recognised, and the names of what was resized.
    """
    layout = recognise(state)
    adapted = official_to_openmmlab(state) if layout == "official" else dict(state)
    resized = []
    for key, wanted in own.items():
        if key.endswith(_INDEX):
            # It follows from the window, so it is never taken from a checkpoint.
            if key.replace(_INDEX, _TABLE) in adapted:
                adapted[key] = wanted
        elif key.endswith((_TABLE, _ABSOLUTE)) and key in adapted:
            value = _fit(key, adapted[key], wanted, grid)
            if value is not None:
                if value.numel() != adapted[key].numel():
                    resized.append(key)
                adapted[key] = value
    return adapted, layout, resized


def _fit(key: str, value: Tensor, wanted: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """The position parameter at the wanted size; None where it cannot be brought there."""
    if key.endswith(_TABLE):
        same_heads = value.ndim == 2 and value.shape[1] == wanted.shape[1]
        if not same_heads or isqrt(len(value)) ** 2 != len(value):
            return None
        return value if value.shape == wanted.shape else resize_bias_table(value, len(wanted))
    if value.ndim == 4:  # official detection: (1, C, h, w)
        from_grid = (value.shape[2], value.shape[3])
        value = value.flatten(2).transpose(1, 2)
    else:
        side = isqrt(value.shape[1])
        from_grid = grid if value.shape == wanted.shape else (side, side)
    if value.shape[2] != wanted.shape[2] or from_grid[0] * from_grid[1] != value.shape[1]:
        return None
    return resize_absolute_pos_embed(value, from_grid, grid).reshape(wanted.shape)


def adapt_state_dict(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object
) -> None:
    """Pre-hook of ``load_state_dict``: :func:`adapt` what lies under ``prefix``, in place."""
    state = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    adapted, _layout, _resized = adapt(state, _own_state(module), _grid(module))
    for key in state:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in adapted.items()})


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
    own = _own_state(module)
    adapted, layout, resized = adapt(unwrap(checkpoint), own, _grid(module))
    report = LoadReport(source, layout, resized=resized)
    fitting: State = {}
    for key, value in adapted.items():
        if key in own and own[key].shape == value.shape:
            fitting[key] = value
        else:
            shapes = f" {tuple(value.shape)} for {tuple(own[key].shape)}" if key in own else ""
            report.unexpected.append(key + shapes)
    parameters = dict(module.named_parameters())
    report.loaded = [key for key in parameters if key in fitting]
    report.missing = [key for key in parameters if key not in fitting]
    new = getattr(module, "without_pretraining", ())  # layers that no classifier has
    expected = {key: p.numel() for key, p in parameters.items() if not key.startswith(new)}
    found = sum(expected.get(key, 0) for key in report.loaded)
    share = found / sum(expected.values())
    if share < _ENOUGH:
        raise UserError(
            f"{source} holds {share:.0%} of this backbone's parameters ({layout} layout); missing: "
            f"{_first(report.missing)}; not fitting: {_first(report.unexpected)}. "
            "Give weights of the same architecture"
        )
    module.load_state_dict(fitting, strict=False)
    return report


def _grid(module: nn.Module) -> tuple[int, int]:
    return cast("tuple[int, int]", module.patch_grid)


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _first(names: list[str], count: int = 4) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "none") + more
