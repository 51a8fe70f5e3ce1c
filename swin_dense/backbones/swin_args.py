"""Checks of SwinTransformer's arguments, so that a wrong one is named and not met later."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from swin_dense.ops.window_attention import check_impl

# Section 3.3 of the paper: (C, blocks per stage, heads per stage); every head has 32 channels.
ARCHS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


class Checked(NamedTuple):
    """Arguments in the form that the backbone uses."""

    patch_size: int
    patch_grid: tuple[int, int]


def resolve_arch(
    arch: str | None, embed_dims: int, depths: Sequence[int], num_heads: Sequence[int]
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Channels, depths and heads of ``arch``, or the given ones where it is None.

    Raises:
        ValueError: no such arch, or a size that was set besides it contradicts it.
    """
    given = (embed_dims, tuple(depths), tuple(num_heads))
    if arch is None:
        return given
    if arch not in ARCHS:
        raise ValueError(f"arch must be one of {', '.join(ARCHS)}, got {arch!r}")
    names = ("embed_dims", "depths", "num_heads")
    for name, value, default, ours in zip(names, given, ARCHS["tiny"], ARCHS[arch], strict=True):
        # The defaults are the tiny model's: equal to them means that nothing was set.
        if value not in (default, ours):
            raise ValueError(f"arch={arch!r} has {name}={ours}, got {name}={value}: give only one")
    return ARCHS[arch]


def check_arguments(
    cls: type,
    unknown: dict[str, Any],
    *,
    pretrain_img_size: int | Sequence[int],
    patch_size: int | Sequence[int],
    window_size: int,
    embed_dims: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    strides: Sequence[int],
    out_indices: Sequence[int],
    frozen_stages: int,
    rates: Sequence[float],
    pretrained: str | None,
    init_cfg: dict | None,
    attn_impl: str,
    use_rel_pos_bias: bool,
    use_dot_product: bool,
    global_attention: bool,
    cuda_graphs: int,
) -> Checked:
    """Raise ValueError for arguments that do not fit each other; see SwinTransformer."""
    _check_names(cls, unknown)
    check_impl(attn_impl)
    stages = len(depths)
    for name, values in (("num_heads", num_heads), ("strides", strides)):
        _expect(len(values) == stages, f"{name} needs one entry per stage ({stages})", values)
    for i, heads in enumerate(num_heads):
        channels = embed_dims * 2**i
        _expect(
            heads > 0 and channels % heads == 0, f"num_heads[{i}] must divide {channels}", heads
        )
    _expect(window_size >= 1, "window_size must be at least 1", window_size)
    inside = all(0 <= i < stages for i in out_indices)
    _expect(inside, f"out_indices must lie in 0..{stages - 1}", out_indices)
    _expect(-1 <= frozen_stages <= stages, f"frozen_stages must lie in -1..{stages}", frozen_stages)
    _expect(all(0 <= rate <= 1 for rate in rates), "drop rates must lie in 0..1", rates)
    _expect(
        pretrained is None or init_cfg is None,
        "pretrained and init_cfg exclude each other",
        init_cfg,
    )
    _expect(
        pretrained is None or isinstance(pretrained, str), "pretrained must be a str", pretrained
    )
    _expect(
        init_cfg is None or "checkpoint" in init_cfg,
        "init_cfg must be dict(type='Pretrained', checkpoint=...)",
        init_cfg,
    )
    _expect(
        use_rel_pos_bias or use_dot_product,
        "without use_rel_pos_bias, use_dot_product must stay True (no scores are left)",
        use_dot_product,
    )
    _expect(
        not global_attention or stages - 1 in out_indices,
        f"global_attention acts on the last stage, so out_indices needs {stages - 1}",
        out_indices,
    )
    _expect(
        type(cuda_graphs) is int and cuda_graphs >= 0,
        "cuda_graphs must be a number of input shapes, 0 for none",
        cuda_graphs,
    )
    side, other = pair("patch_size", patch_size)
    _expect(
        side == other == strides[0], f"patch_size must equal strides[0]={strides[0]}", patch_size
    )
    height, width = pair("pretrain_img_size", pretrain_img_size)
    return Checked(side, (height // side, width // side))


def pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """An int or a sequence of one or two, as two ints."""
    values = (value,) if isinstance(value, int) else tuple(value)
    _expect(len(values) in (1, 2), f"{name} must be one or two numbers", value)
    return values[0], values[-1]


def _check_names(cls: type, unknown: dict[str, Any]) -> None:
    if not unknown:
        return
    known = [n for n in inspect.signature(cls).parameters if n not in ("self", "unknown")]
    name = next(iter(unknown))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    raise ValueError(f"{cls.__name__} has no argument {name!r} (got {unknown[name]!r}); {hint}")


def _expect(condition: bool, expected: str, came: object) -> None:
    if not condition:
        raise ValueError(f"{expected}, got {came!r}")
