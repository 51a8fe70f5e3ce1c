"""Swin Transformers of other libraries, with our weights and our outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.analysis.building import randomize_parameters
from swin_dense.backbones import SwinTransformer
from swin_dense.backbones.swin_args import ARCHS
from swin_dense.checkpoints import convert
from swin_dense.errors import UserError
from swin_dense.ops.dispatch import AttnImpl

OURS = "ours"
_PATCH = 4
_STAGES = 4


@dataclass(frozen=True)
class Spec:
    """The model that every contestant has to be.

    Attributes:
        embed_dims, depths, num_heads: of the first stage, of the stages.
        window_size: side of a window in tokens.
        size: height and width of the images in pixels.
        drop_path_rate: stochastic depth of the last block.
        attn_impl: of ours.
        cuda_graphs: of ours: input shapes whose CUDA graph is kept; 0 for none.
        with_cp: recompute blocks in backward; of ours and mmdet's.
        compile: compile every contestant with ``torch.compile``.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    size: tuple[int, int]
    drop_path_rate: float = 0.2
    attn_impl: str = "auto"
    cuda_graphs: int = 0
    with_cp: bool = False
    compile: bool = False

    @classmethod
    def of_arch(cls, arch: str, window_size: int, size: tuple[int, int], **more: Any) -> Spec:
        """A model of the paper.

        Raises:
            UserError: there is no such model, or no such implementation of the attention.
        """
        if arch not in ARCHS:
            raise UserError(f"unknown --arch {arch!r}: choose one of {', '.join(ARCHS)}")
        try:
            AttnImpl.parse(more.get("attn_impl", "auto"))
        except (ValueError, ImportError) as error:
            raise UserError(str(error)) from error
        return cls(*ARCHS[arch], window_size, size, **more)

    @property
    def whole_windows(self) -> bool:
        """Whether every map is cut into several whole windows.

        Then all libraries agree. Else some shrink windows, drop the shift of a map that is one
        window, or pad after the shift, and are other functions than the dense prediction code.
        """
        m = self.window_size
        sides = [side / (_PATCH * 2**i) for side in self.size for i in range(_STAGES)]
        return all(side % m == 0 and side > m for side in sides)


class WithOutputNorms(nn.Module):
    """A backbone without norms of its maps, and these norms: ``(B, 3, H, W)`` to four maps."""

    def __init__(self, body: nn.Module, maps: Callable[[nn.Module, Tensor], Any], spec: Spec):
        super().__init__()
        self.body = body
        self._maps = maps
        for i in range(_STAGES):
            self.add_module(f"norm{i}", nn.LayerNorm(spec.embed_dims * 2**i))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` to maps ``(B, C, H', W')``, as ours returns them."""
        return tuple(
            getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2).contiguous()
            for i, x in enumerate(self._maps(self.body, image))
        )


def build_ours(spec: Spec) -> SwinTransformer:
    """Our backbone with random weights, the same on every call."""
    graphs: dict[str, Any] = {"cuda_graphs": spec.cuda_graphs} if spec.cuda_graphs else {}
    model = SwinTransformer(
        embed_dims=spec.embed_dims,
        depths=spec.depths,
        num_heads=spec.num_heads,
        window_size=spec.window_size,
        drop_path_rate=spec.drop_path_rate,
        attn_impl=spec.attn_impl,
        with_cp=spec.with_cp,
        **graphs,
    )
    randomize_parameters(model)
    return model


def _mmdet(spec: Spec, state: dict[str, Tensor]) -> nn.Module:
    stock = import_module("mmdet.models").SwinTransformer
    model = stock(
        embed_dims=spec.embed_dims,
        depths=spec.depths,
        num_heads=spec.num_heads,
        window_size=spec.window_size,
        drop_path_rate=spec.drop_path_rate,
        with_cp=spec.with_cp,
    )
    model.load_state_dict(state)
    return model


def _timm(spec: Spec, state: dict[str, Tensor]) -> nn.Module:
    if -(-min(spec.size) // 32) < spec.window_size:  # where timm takes smaller windows
        raise UserError(
            f"timm needs images of more than {32 * (spec.window_size - 1)} pixels for windows of "
            f"{spec.window_size}: leave it out of --against, or raise --size"
        )
    name = "swin_tiny_patch4_window7_224"  # the sizes below replace the tiny model's
    body = import_module("timm").create_model(
        name,
        img_size=spec.size,
        window_size=spec.window_size,
        embed_dim=spec.embed_dims,
        depths=spec.depths,
        num_heads=spec.num_heads,
        drop_path_rate=spec.drop_path_rate,
        features_only=True,
    )
    model = WithOutputNorms(body, lambda body, image: body(image), spec)
    # features_only calls the stages layers_0 to layers_3
    names = {k.replace("layers.", "layers_", 1): v for k, v in convert(state, "timm").state.items()}
    return _loaded(model, names)


def _torchvision(spec: Spec, state: dict[str, Tensor]) -> nn.Module:
    whole = import_module("torchvision.models.swin_transformer").SwinTransformer(
        [_PATCH, _PATCH],
        spec.embed_dims,
        list(spec.depths),
        list(spec.num_heads),
        [spec.window_size, spec.window_size],
        stochastic_depth_prob=spec.drop_path_rate,
    )
    body = nn.Module()
    body.features = whole.features
    return _loaded(
        WithOutputNorms(body, _torchvision_maps, spec), convert(state, "torchvision").state
    )


def _torchvision_maps(body: nn.Module, x: Tensor) -> list[Tensor]:
    maps = []
    features: Any = body.features
    for i, part in enumerate(features):
        x = part(x)
        if i % 2:  # a stage; its map is taken before the merging that follows
            maps.append(x)
    return maps


def _hugging_face(spec: Spec, state: dict[str, Tensor]) -> nn.Module:
    transformers = import_module("transformers")
    config = transformers.SwinConfig(
        image_size=spec.size,
        embed_dim=spec.embed_dims,
        depths=list(spec.depths),
        num_heads=list(spec.num_heads),
        window_size=spec.window_size,
        drop_path_rate=spec.drop_path_rate,
        out_features=[f"stage{i + 1}" for i in range(_STAGES)],
    )
    model = _Maps(transformers.SwinBackbone(config))
    return _loaded(model, convert(state, "hf").state)


class _Maps(nn.Module):
    """A backbone of transformers that returns its maps alone."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` to maps ``(B, C, H', W')``."""
        return tuple(x.contiguous() for x in self.body(image).feature_maps)


def _loaded(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """The model with weights that are named as its body names them; none may be missing."""
    own = model.state_dict()
    norms = {k: v for k, v in state.items() if k in own}
    found = norms | {f"body.{k}": v for k, v in state.items() if f"body.{k}" in own}
    missing = {name for name, _ in model.named_parameters()} - set(found)
    if missing:
        raise RuntimeError(f"no weights for {', '.join(sorted(missing)[:3])}")
    model.load_state_dict(found, strict=False)
    return model


# What builds a peer, and the distribution that it comes from.
PEERS: dict[str, tuple[Callable[[Spec, dict[str, Tensor]], nn.Module], str]] = {
    "mmdet": (_mmdet, "mmdet"),
    "timm": (_timm, "timm"),
    "hf": (_hugging_face, "transformers"),
    "torchvision": (_torchvision, "torchvision"),
}


def peers_named(text: str) -> list[str]:
    """The peers of a comma-separated list.

    Raises:
        UserError: one of them is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in PEERS]:
        raise UserError(f"unknown peer {unknown[0]!r} in --against: choose of {', '.join(PEERS)}")
    return list(dict.fromkeys(names))


def installed(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Versions of the peers that are installed, and the names of the others."""
    versions, missing = {}, []
    for name in names:
        try:
            versions[name] = version(PEERS[name][1])
        except PackageNotFoundError:
            missing.append(name)
    return versions, missing


def build_contestants(spec: Spec, names: list[str], device: torch.device) -> dict[str, nn.Module]:
    """Ours and the named peers, all with the same weights, in evaluation mode on ``device``."""
    ours = build_ours(spec)
    state = ours.state_dict()
    models: dict[str, nn.Module] = {OURS: ours}
    models |= {name: PEERS[name][0](spec, dict(state)) for name in names}
    for model in models.values():
        model.to(device).eval()  # apart from each other: mmdet's eval() returns None
        if spec.compile:
            model.compile()
    return models
