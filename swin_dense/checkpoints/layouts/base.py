"""Layouts of weights: recognising them, and conversion to OpenMMLab's and back.

A layout is a table of name patterns, ours beside theirs. ``{i}`` is the stage and ``{j}`` the
block, ``{2i+1}`` a number computed from the stage, ``*`` the rest of the name. The first pattern
that matches renames; a name that matches none is unchanged, so no weight is lost.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import isqrt

import torch
from torch import Tensor

from swin_dense.ops.window_attention.windows import relative_position_index

State = dict[str, Tensor]

TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"
ABSOLUTE = "absolute_pos_embed"
COORDINATES = "relative_coords_table"

# Both follow from sizes: they are computed, never copied.
_BUFFERS = (f".{INDEX}", ".attn_mask")
_MERGING = re.compile(r"stages\.\d+\.downsample\.(norm\.(weight|bias)|reduction\.weight)$")
_NUMBER = re.compile(r"\{(\d*)(i|j)(?:\+(\d+))?\}")


def rename(name: str, source: str, target: str) -> str | None:
    """A name that matches pattern ``source``, by pattern ``target``; None if it does not match."""
    found = _regex(source).fullmatch(name)
    if found is None:
        return None
    values = {}
    for times, variable, plus in _NUMBER.findall(source):
        values[variable], remainder = divmod(int(found[variable]) - int(plus or 0), int(times or 1))
        if remainder or values[variable] < 0:
            return None
    filled = _NUMBER.sub(lambda n: str(int(n[1] or 1) * values[n[2]] + int(n[3] or 0)), target)
    return filled.replace("*", found["rest"] if "*" in source else "")


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    regex = re.sub(r"\\\{\d*(i|j)(\\\+\d+)?\\\}", r"(?P<\1>\\d+)", re.escape(pattern))
    return re.compile(regex.replace(r"\*", "(?P<rest>.*)"))


def _rename_all(state: Mapping[str, Tensor], table: list[tuple[str, str]]) -> State:
    """Rename by the first matching row of (from, to), and drop the computed buffers."""
    renamed = {}
    for name, value in state.items():
        if not name.endswith(_BUFFERS):
            new_names = (rename(name, source, target) for source, target in table)
            renamed[next(filter(None, new_names), name)] = value
    return renamed


@dataclass(frozen=True)
class Layout:
    """How a library names and stores Swin's weights.

    Args:
        name: in reports and for the converter.
        anchor: regular expression of one name that every such file has, after any prefix.
        table: rows of (OpenMMLab's pattern, this layout's).
        accepts: whether a backbone's weights, which have the anchor, are in this layout.
        inner_prefixes: what may precede the backbone's names, but not those of its siblings.
        siblings: what the output norms and heads begin with; next to these, and only then, the
            backbone has the first inner prefix.
        unfold_order: whether patch merging orders channels as ``nn.Unfold``, like OpenMMLab's.
        stored_index: how the index of the bias table is stored: 'square' (N, N), 'flat', or None.
        merging: regular expression of OpenMMLab's names of what patch merging applies to the
            channels of four neighbours.
        join: joins weights that are stored in parts, after renaming to OpenMMLab's names.
        split: undoes ``join``.
        has_detectors: whether it has detectors and segmentors, whose heads a conversion keeps.
        classification_only: whether it has no output norms, position embedding and mask token.
        wrapper: entry of the file that the library's classifier is read from; '' for none.
    """

    name: str
    anchor: str
    table: tuple[tuple[str, str], ...]
    accepts: Callable[[State], bool] = lambda _: True
    inner_prefixes: tuple[str, ...] = ()
    siblings: tuple[str, ...] = ()
    unfold_order: bool = False
    stored_index: str | None = None
    merging: re.Pattern[str] = _MERGING
    join: Callable[[State], State] = dict
    split: Callable[[State], State] = dict
    has_detectors: bool = False
    classification_only: bool = False
    wrapper: str = ""

    def prefix(self, name: str) -> str | None:
        """The prefix of the backbone's names if ``name`` is the anchor, else None."""
        found = re.fullmatch(rf"(|.*\.){self.anchor}", name)
        return None if found is None else found[1]

    def to_openmmlab(self, state: Mapping[str, Tensor]) -> State:
        """A backbone's weights under OpenMMLab's names and in its channel order.

        Buffers that follow from sizes are dropped. A classifier's final norm is ``norm``, its
        head ``head.fc``, as in OpenMMLab's first classifiers.
        """
        named = self.join(_rename_all(state, [(theirs, ours) for ours, theirs in self.table]))
        return named if self.unfold_order else self._reordered(named, _quadrants_to_unfold)

    def from_openmmlab(self, state: Mapping[str, Tensor]) -> State:
        """Undo :meth:`to_openmmlab`; what backbones of this layout do not have keeps its name."""
        native = dict(state) if self.unfold_order else self._reordered(state, _unfold_to_quadrants)
        if ABSOLUTE in native:
            native[ABSOLUTE] = one_row_per_patch(native[ABSOLUTE])
        native = _rename_all(self.split(native), list(self.table))
        if self.stored_index:
            native = self._with_index(native)
        if not any(name.startswith(self.siblings) for name in native):
            return native
        inner = self.inner_prefixes[0]
        return {n if n.startswith(self.siblings) else inner + n: v for n, v in native.items()}

    def _reordered(self, state: Mapping[str, Tensor], reorder: Callable[[Tensor], Tensor]) -> State:
        return {k: reorder(value) if self.merging.match(k) else value for k, value in state.items()}

    def _with_index(self, state: State) -> State:
        complete: State = {}
        for name, value in state.items():
            complete[name] = value
            last = name.rpartition(".")[2]
            side = isqrt(len(value)) if last == TABLE and value.ndim else 0
            if last == COORDINATES:  # of Swin V2: (1, 2M - 1, 2M - 1, 2)
                side = value.shape[1]
            if side and (last == COORDINATES or side**2 == len(value)):
                index = relative_position_index((side + 1) // 2)
                index = index.flatten() if self.stored_index == "flat" else index
                complete[name.removesuffix(last) + INDEX] = index
        return complete


def one_row_per_patch(embed: Tensor) -> Tensor:
    """An absolute position embedding as ``(1, h * w, C)``, also from ``(1, C, h, w)``."""
    return embed.flatten(2).transpose(1, 2).contiguous() if embed.ndim == 4 else embed


# Patch merging joins the neighbours (row, column) = (0, 0), (1, 0), (0, 1), (1, 1) in the
# official order, C channels each; nn.Unfold keeps a channel's four neighbours together and
# orders them row by row. The permutation of neighbours is its own inverse.
_SWAP = torch.tensor([0, 2, 1, 3])


def _quadrants_to_unfold(weight: Tensor) -> Tensor:
    """Reorder the last axis, 4C channels, of a merging weight from official to unfold order."""
    return weight.unflatten(-1, (4, -1))[..., _SWAP, :].transpose(-1, -2).flatten(-2)


def _unfold_to_quadrants(weight: Tensor) -> Tensor:
    return weight.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., _SWAP, :].flatten(-2)
