"""Weights of Swin V2 for a backbone with windows of its own.

Nothing is interpolated: the position bias is a function of the offsets between tokens relative to
the window of pretraining, P. So that has to be the right one, and is a property of the weights.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from swin_dense.checkpoints.files import strip_prefixes
from swin_dense.checkpoints.layouts import SWIN_V2, find_backbone
from swin_dense.checkpoints.layouts.base import COORDINATES, State
from swin_dense.checkpoints.resizing import resize_weights
from swin_dense.errors import UserError
from swin_dense.ops.window_attention.windows import log_spaced_offsets, pretrained_window_size

_ATTENTION = "stages.{}.blocks.0.attn.w_msa."


def to_second_version(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    grid: tuple[int, int],
    pretrained_window_sizes: Sequence[int] | None,
) -> tuple[State, str, list[str]]:
    """:meth:`~.loading.LoadableBackbone.to_native` of Swin V2, from any known layout.

    Args:
        state, own: see there.
        grid: patches (rows, columns) of the backbone's absolute position embedding.
        pretrained_window_sizes: P of every stage, 0 for the backbone's own window; None to take
            them from the weights.

    Raises:
        UserError: these are weights of another architecture; they have other heads; their windows
            of pretraining are others than those given, or are neither given nor in the weights.
    """
    match = find_backbone(state)
    if match is None:
        return strip_prefixes(state), "unknown", []
    match.require(SWIN_V2)
    native = match.layout.to_openmmlab(match.state)
    _check_heads(native, own)
    windows = [(table.shape[1] + 1) // 2 for table in _first_of_stages(own, COORDINATES)]
    sizes = _pretraining(native, windows, pretrained_window_sizes)
    for name, table in own.items():
        if name.endswith(COORDINATES):
            stage = int(name.split(".")[1])
            offsets = log_spaced_offsets(windows[stage], sizes[stage])
            native[name] = offsets.to(table.device, table.dtype)
    weights, resized = resize_weights(native, own, grid)
    return weights, match.layout.name, resized


def _first_of_stages(state: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """A tensor of the first block's attention of every stage that has it."""
    found: list[Tensor] = []
    while (key := _ATTENTION.format(len(found)) + name) in state:
        found.append(state[key])
    return found


def _check_heads(native: State, own: Mapping[str, Tensor]) -> None:
    theirs, ours = ([len(x) for x in _first_of_stages(s, "logit_scale")] for s in (native, own))
    if len(theirs) == len(ours) and theirs != ours:
        raise UserError(
            f"these weights have {_listed(theirs)} attention heads in their stages, the config has "
            f"{_listed(ours)}: give arch=dict(embed_dims=..., depths=..., num_heads={theirs})"
        )


def _pretraining(native: State, windows: list[int], given: Sequence[int] | None) -> list[int]:
    """P of every stage."""
    tables = _first_of_stages(native, COORDINATES)
    if any(table.is_meta for table in tables):  # shapes alone tell nothing
        tables = []
        given = given or [0] * len(windows)
    found = [pretrained_window_size(table) for table in tables]
    if given is None:
        if len(found) < len(windows):
            raise UserError(
                "these weights do not say the windows that they were pretrained with: give "
                "pretrained_window_sizes, for example [8, 8, 8, 8] of swinv2_*_window8_256 or "
                "[16, 16, 16, 8] of swinv2_*_window16_256"
            )
        return [size or 0 for size in found[: len(windows)]]
    # What 0 stands for; a window of 1 has the offsets of one of 2.
    wanted = [size or window for size, window in zip(given, windows, strict=True)]
    for size, right in zip(wanted, found, strict=False):
        if right is not None and max(size, 2) != right:
            raise UserError(
                f"these weights were pretrained with windows of {_listed(found)} tokens, the "
                f"config has pretrained_window_sizes of {_listed(wanted)}: give "
                f"pretrained_window_sizes={found}, whatever window_size is"
            )
    return list(given)


def _listed(sizes: Sequence[int | None]) -> str:
    return " ".join(map(str, sizes))
