"""SwinTransformer's arguments, checked, so that a wrong one is named before anything is built."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swin_dense.checkpoints.resizing import BIAS_TABLES
from swin_dense.ops.dispatch import AttnImpl

# Section 3.3 of the paper: (C, blocks per stage, heads per stage); every head has 32 channels.
ARCHS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


@dataclass(frozen=True)
class ResolvedArgs:
    """Arguments of :class:`~.swin.SwinTransformer` in the form that it builds from.

    Those that differ from what was given: sizes are those of ``arch``, ``patch_size`` is one
    number, ``init_cfg`` includes ``pretrained``, ``attn_impl`` is parsed.
    """

    in_channels: int
    embed_dims: int
    patch_size: int
    patch_grid: tuple[int, int]
    window_size: int
    mlp_ratio: float
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    strides: tuple[int, ...]
    out_indices: tuple[int, ...]
    qkv_bias: bool
    qk_scale: float | None
    patch_norm: bool
    drop_rate: float
    attn_drop_rate: float
    drop_path_rate: float
    act_cfg: dict
    norm_cfg: dict
    with_cp: bool
    frozen_stages: int
    init_cfg: dict | None
    attn_impl: AttnImpl
    use_shift: bool
    use_rel_pos_bias: bool
    use_dot_product: bool
    global_attention: bool
    cuda_graphs: int
    attention: str

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of every stage."""
        return tuple(self.embed_dims * 2**i for i in range(len(self.depths)))

    @property
    def patch_norm_cfg(self) -> dict | None:
        """Normalisation after the patch embedding and in the patch merging."""
        return self.norm_cfg if self.patch_norm else None

    @classmethod
    def resolve(cls, backbone: type, given: Mapping[str, Any]) -> ResolvedArgs:
        """Check arguments that were given to a class ``backbone``.

        Args:
            backbone: for messages.
            given: by name; ``unknown`` holds those that the class does not take.

        Raises:
            ValueError: an argument is unknown, or does not fit the others.
        """
        check_names(backbone, given["unknown"])
        embed_dims, depths, num_heads = _sizes(given)
        strides = tuple(given["strides"])
        expect(len(strides) == len(depths), _one_per_stage("strides", depths), strides)
        side, other = pair("patch_size", given["patch_size"])
        expected = f"patch_size must equal strides[0]={strides[0]}"
        expect(side == other == strides[0], expected, given["patch_size"])
        height, width = pair("pretrain_img_size", given["pretrain_img_size"])
        resolved = {
            "embed_dims": embed_dims,
            "depths": depths,
            "num_heads": num_heads,
            "strides": strides,
            "out_indices": tuple(given["out_indices"]),
            "patch_size": side,
            "patch_grid": (height // side, width // side),
            "init_cfg": resolve_init_cfg(given["init_cfg"], given["pretrained"]),
            "attn_impl": AttnImpl.parse(given["attn_impl"]),
        }
        own = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        args = cls(**(own | resolved))
        args._check()
        return args

    def _check(self) -> None:
        last = len(self.depths) - 1
        expected = _one_per_stage("num_heads", self.depths)
        expect(len(self.num_heads) == last + 1, expected, self.num_heads)
        for i, (heads, channels) in enumerate(zip(self.num_heads, self.channels, strict=True)):
            fits = heads > 0 and channels % heads == 0
            expect(fits, f"num_heads[{i}] must divide {channels}", heads)
        expect(self.window_size >= 1, "window_size must be at least 1", self.window_size)
        self._check_attention()
        check_stages(self.out_indices, self.frozen_stages, last + 1, last + 1)
        rates = (self.drop_rate, self.attn_drop_rate, self.drop_path_rate)
        expect(all(0 <= rate <= 1 for rate in rates), "drop rates must lie in 0..1", rates)
        expected = f"global_attention acts on the last stage, so out_indices needs {last}"
        returned = not self.global_attention or last in self.out_indices
        expect(returned, expected, self.out_indices)
        is_number = type(self.cuda_graphs) is int and self.cuda_graphs >= 0
        expected = "cuda_graphs must be a number of input shapes, 0 for none"
        expect(is_number, expected, self.cuda_graphs)

    def _check_attention(self) -> None:
        expected = "without use_rel_pos_bias, use_dot_product must stay True (no scores are left)"
        expect(self.use_rel_pos_bias or self.use_dot_product, expected, self.use_dot_product)
        known = self.attention in ("window", "sliding")
        expect(known, "attention must be 'window' or 'sliding'", self.attention)
        if self.attention == "sliding":
            expected = "attention='sliding' needs an odd window_size, centred on a token"
            expect(self.window_size % 2 == 1, expected, self.window_size)


def _sizes(given: Mapping[str, Any]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Channels, depths and heads: those of ``arch``, or the given ones where it is None."""
    sizes = (given["embed_dims"], tuple(given["depths"]), tuple(given["num_heads"]))
    arch = given["arch"]
    if arch is None:
        return sizes
    if arch not in ARCHS:
        raise ValueError(f"arch must be one of {', '.join(ARCHS)}, got {arch!r}")
    names = ("embed_dims", "depths", "num_heads")
    for name, value, default, own in zip(names, sizes, ARCHS["tiny"], ARCHS[arch], strict=True):
        # The defaults are the tiny model's: equal to them means that nothing was set.
        if value not in (default, own):
            raise ValueError(f"arch={arch!r} has {name}={own}, got {name}={value}: give only one")
    return ARCHS[arch]


def _one_per_stage(name: str, depths: Sequence[int]) -> str:
    return f"{name} needs one entry per stage ({len(depths)})"


def resolve_init_cfg(init_cfg: dict | None, pretrained: str | None = None) -> dict | None:
    """Where pretrained weights come from; ``pretrained`` is the former name of ``init_cfg``."""
    only_one = pretrained is None or init_cfg is None
    expect(only_one, "pretrained and init_cfg exclude each other", init_cfg)
    is_path = pretrained is None or isinstance(pretrained, str)
    expect(is_path, "pretrained must be a str", pretrained)
    has_source = init_cfg is None or "checkpoint" in init_cfg
    expect(has_source, "init_cfg must be dict(type='Pretrained', checkpoint=...)", init_cfg)
    how = (init_cfg or {}).get("bias_tables", "bicubic")
    expect(how in BIAS_TABLES, f"bias_tables must be one of {', '.join(BIAS_TABLES)}", how)
    if pretrained is None:
        return init_cfg
    warnings.warn("pretrained=... is the former name of init_cfg", stacklevel=5)
    return {"type": "Pretrained", "checkpoint": pretrained}


def check_stages(
    out_indices: Sequence[int], frozen_stages: int, outputs: int, freezable: int
) -> None:
    """Raise ValueError unless outputs exist and no more is frozen than there is."""
    inside = all(0 <= i < outputs for i in out_indices)
    expect(inside, f"out_indices must lie in 0..{outputs - 1}", out_indices)
    in_range = -1 <= frozen_stages <= freezable
    expect(in_range, f"frozen_stages must lie in -1..{freezable}", frozen_stages)


def pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """An int or a sequence of one or two, as two ints."""
    values = (value,) if isinstance(value, int) else tuple(value)
    expect(len(values) in (1, 2), f"{name} must be one or two numbers", value)
    return values[0], values[-1]


def check_names(cls: type, unknown: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments that a class does not take, with the closest it takes."""
    if not unknown:
        return
    known = [n for n in inspect.signature(cls).parameters if n not in ("self", "unknown")]
    name = next(iter(unknown))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    raise ValueError(f"{cls.__name__} has no argument {name!r} (got {unknown[name]!r}); {hint}")


def expect(condition: bool, expected: str, got: object) -> None:
    """Raise ValueError that says what was expected and what came, unless it holds."""
    if not condition:
        raise ValueError(f"{expected}, got {got!r}")
