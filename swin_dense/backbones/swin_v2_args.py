"""SwinTransformerV2's arguments, checked, so that a wrong one is named before anything is built."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swin_dense.backbones.swin_args import (
    check_names,
    check_stages,
    expect,
    pair,
    resolve_init_cfg,
)
from swin_dense.ops.dispatch import AttnImpl

# (C, blocks per stage, heads per stage, blocks for each extra norm). Of the two largest the paper
# does not give the heads: these are mmpretrain's.
_ARCHS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 0),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 0),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 0),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 0),
    "huge": (352, (2, 2, 18, 2), (8, 16, 32, 64), 6),
    "giant": (512, (2, 2, 42, 4), (16, 32, 64, 128), 6),
}
_NAMES = ("embed_dims", "depths", "num_heads", "extra_norm_every_n_blocks")
# mmpretrain's, all of whose keys would change what the layers compute.
_UNSUPPORTED = ("stage_cfgs", "patch_cfg")


@dataclass(frozen=True)
class ResolvedArgsV2:
    """Arguments of :class:`~.swin_v2.SwinTransformerV2` in the form that it builds from.

    Those that differ from what was given: sizes are those of ``arch``, windows are one per stage,
    ``patch_size`` is one number, ``attn_impl`` is parsed.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    extra_norm_every_n_blocks: int
    in_channels: int
    patch_size: int
    patch_grid: tuple[int, int]
    window_sizes: tuple[int, ...]
    pretrained_window_sizes: tuple[int, ...] | None
    out_indices: tuple[int, ...]
    drop_rate: float
    drop_path_rate: float
    norm_cfg: dict
    with_cp: bool
    frozen_stages: int
    init_cfg: dict | None
    attn_impl: AttnImpl
    cuda_graphs: int

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of every stage."""
        return tuple(self.embed_dims * 2**i for i in range(len(self.depths)))

    @classmethod
    def resolve(cls, backbone: type, given: Mapping[str, Any]) -> ResolvedArgsV2:
        """Check arguments that were given to a class ``backbone``.

        Args:
            backbone: for messages.
            given: by name; ``unknown`` holds those that the class does not take.

        Raises:
            ValueError: an argument is unknown, or does not fit the others.
        """
        check_names(backbone, given["unknown"])
        for name in _UNSUPPORTED:
            expected = f"{name} must be empty: layers inside are those of the paper"
            expect(not given[name], expected, given[name])
        mode = given["interpolate_mode"]
        expect(mode == "bicubic", "interpolate_mode must be 'bicubic'", mode)
        if given["pad_small_map"] is False:
            warnings.warn(
                "pad_small_map=False has no effect: small maps are padded to a window, and odd "
                "blocks shift their windows, as in all dense prediction code",
                stacklevel=3,
            )
        sizes = _sizes(given["arch"])
        stages = len(sizes["depths"])
        side, other = pair("patch_size", given["patch_size"])
        expect(side == other, "patch_size must be square", given["patch_size"])
        height, width = pair("img_size", given["img_size"])
        pretrained = given["pretrained_window_sizes"]
        if pretrained is not None:
            pretrained = _one_per_stage("pretrained_window_sizes", pretrained, stages, smallest=0)
        resolved = sizes | {
            "patch_size": side,
            "patch_grid": (-(-height // side), -(-width // side)),
            "window_sizes": _one_per_stage("window_size", given["window_size"], stages, 1),
            "pretrained_window_sizes": pretrained,
            "out_indices": tuple(given["out_indices"]),
            "init_cfg": resolve_init_cfg(given["init_cfg"]),
            "attn_impl": AttnImpl.parse(given["attn_impl"]),
        }
        own = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        args = cls(**(own | resolved))
        args._check()
        return args

    def _check(self) -> None:
        stages = len(self.depths)
        expected = f"num_heads needs one entry per stage ({stages})"
        expect(len(self.num_heads) == stages, expected, self.num_heads)
        for i, (heads, channels) in enumerate(zip(self.num_heads, self.channels, strict=True)):
            fits = heads > 0 and channels % heads == 0
            expect(fits, f"num_heads[{i}] must divide {channels}", heads)
        check_stages(self.out_indices, self.frozen_stages, stages, stages - 1)
        rates = (self.drop_rate, self.drop_path_rate)
        expect(all(0 <= rate <= 1 for rate in rates), "drop rates must lie in 0..1", rates)
        every = self.extra_norm_every_n_blocks
        expect(every >= 0, "extra_norm_every_n_blocks must be 0 or more", every)
        is_number = type(self.cuda_graphs) is int and self.cuda_graphs >= 0
        expected = "cuda_graphs must be a number of input shapes, 0 for none"
        expect(is_number, expected, self.cuda_graphs)


def _sizes(arch: str | Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that ``arch`` stands for: a name, its first letter, or a dict of them."""
    if isinstance(arch, str):
        found = [name for name in _ARCHS if arch.lower() in (name, name[0])]
        expect(bool(found), f"arch must be one of {', '.join(_ARCHS)}, or a dict", arch)
        return dict(zip(_NAMES, _ARCHS[found[0]], strict=True))
    complete = {*_NAMES[:3]} <= set(arch) <= {*_NAMES}
    expect(complete, f"a dict as arch must have the keys {', '.join(_NAMES)}", arch)
    return {
        "embed_dims": arch["embed_dims"],
        "depths": tuple(arch["depths"]),
        "num_heads": tuple(arch["num_heads"]),
        "extra_norm_every_n_blocks": arch.get("extra_norm_every_n_blocks", 0),
    }


def _one_per_stage(
    name: str, value: int | Sequence[int], stages: int, smallest: int
) -> tuple[int, ...]:
    sizes = (value,) * stages if isinstance(value, int) else tuple(value)
    expect(len(sizes) == stages, f"{name} needs one entry per stage ({stages})", value)
    fits = all(type(size) is int and size >= smallest for size in sizes)
    expect(fits, f"{name} must be whole numbers of at least {smallest}", value)
    return sizes
