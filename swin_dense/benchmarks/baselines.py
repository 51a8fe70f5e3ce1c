"""Swin Transformers of other libraries with our weights, checked to have our outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.analysis.building import randomize_parameters
from swin_dense.analysis.parity import largest_error
from swin_dense.backbones import SwinTransformer, SwinTransformerV2
from swin_dense.backbones.swin_args import ARCHS
from swin_dense.benchmarks.measurement import Run
from swin_dense.checkpoints import convert
from swin_dense.errors import UserError, reason_of
from swin_dense.ops.dispatch import AttnImpl

OURS, OURS_FP32 = "ours", "ours fp32"
_PATCH = 4
_STAGES = 4
# Largest difference over the largest value, after up to 24 blocks and random weights.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
# Its classes are the dense prediction code itself, so it has to agree at every size.
_SAME_AT_EVERY_SIZE = ("mmdet", "mmpretrain")
_ONLY_VERSION = {"mmdet": 1, "timm": 1, "mmpretrain": 2}  # of Swin; the others have both
_V2 = "v2_"  # before the names of Swin V2's sizes, which are the first version's


class DisagreementError(UserError):
    """A baseline is not the same function as ours."""


@dataclass(frozen=True)
class Spec:
    """The model that ours and every baseline has to be.

    Attributes:
        embed_dims, depths, num_heads: of the first stage, of the stages.
        window_size: side of a window in tokens.
        size: height and width of the images in pixels.
        drop_path_rate: stochastic depth of the last block.
        attn_impl: of ours.
        cuda_graphs: of ours: input shapes whose CUDA graph is kept; 0 for none.
        with_cp: recompute blocks in backward; of ours and mmdet's.
        compile: compile all models with ``torch.compile``.
        version: 1, or 2 of Swin V2.
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
    version: int = 1

    @classmethod
    def of_arch(cls, arch: str, window_size: int, size: tuple[int, int], **more: Any) -> Spec:
        """A model of the paper, or of Swin V2's with ``v2_`` before its name.

        Raises:
            UserError: there is no such model, or no such implementation of the attention.
        """
        size_of = arch.removeprefix(_V2)
        if size_of not in ARCHS:
            known = ", ".join([*ARCHS, *(_V2 + name for name in ARCHS)])
            raise UserError(f"unknown --arch {arch!r}: choose one of {known}")
        try:
            AttnImpl.parse(more.get("attn_impl", "auto"))
        except (ValueError, ImportError) as error:
            raise UserError(str(error)) from error
        version = 1 if arch == size_of else 2
        return cls(*ARCHS[size_of], window_size, size, version=version, **more)

    @property
    def channels(self) -> list[int]:
        """Channels of the feature maps."""
        return [self.embed_dims * 2**i for i in range(_STAGES)]

    @property
    def whole_windows(self) -> bool:
        """Whether every feature map is cut into several whole windows.

        Then all libraries agree. Else some shrink windows, drop the shift of a feature map that is
        one window, or pad after the shift, and are other functions than dense prediction code.
        """
        m = self.window_size
        sides = [side / (_PATCH * 2**i) for side in self.size for i in range(_STAGES)]
        return all(side % m == 0 and side > m for side in sides)


class Baseline(nn.Module):
    """A backbone of another library that returns feature maps as ours does.

    ``maps(body, image)`` are four feature maps ``(B, H, W, C)``, which get output norms of these
    ``channels``; or, without any, ``(B, C, H, W)`` with the library's own norms.
    """

    def __init__(
        self,
        body: nn.Module,
        maps: Callable[[nn.Module, Tensor], Sequence[Tensor]],
        channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.body = body
        self._maps = maps
        for i, count in enumerate(channels):
            self.add_module(f"norm{i}", nn.LayerNorm(count))
        self._has_norms = bool(channels)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` to feature maps ``(B, C, H', W')``."""
        maps = self._maps(self.body, image)
        if self._has_norms:
            maps = [getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2) for i, x in enumerate(maps)]
        return tuple(x.contiguous() for x in maps)


def build_ours(spec: Spec) -> SwinTransformer | SwinTransformerV2:
    """Our backbone with random weights, the same on every call."""
    own: dict[str, Any] = {"attn_impl": spec.attn_impl, "cuda_graphs": spec.cuda_graphs}
    model: SwinTransformer | SwinTransformerV2
    if spec.version == 2:
        model = SwinTransformerV2(**_sizes_v2(spec), **own)
    else:
        model = SwinTransformer(**_sizes(spec), **own)
    randomize_parameters(model)
    return model


def _sizes(spec: Spec) -> dict[str, Any]:
    """Arguments of our class and of mmdet's."""
    names = ("embed_dims", "depths", "num_heads", "window_size", "drop_path_rate", "with_cp")
    return {name: getattr(spec, name) for name in names}


def _sizes_v2(spec: Spec) -> dict[str, Any]:
    """Arguments of our class of Swin V2 and of mmpretrain's."""
    arch = {name: getattr(spec, name) for name in ("embed_dims", "depths", "num_heads")}
    return {
        "arch": arch | {"extra_norm_every_n_blocks": 0},
        "window_size": spec.window_size,
        "drop_path_rate": spec.drop_path_rate,
        "with_cp": spec.with_cp,
        "out_indices": tuple(range(_STAGES)),
        "pad_small_map": True,
    }


def _mmpretrain(spec: Spec, state: dict[str, Tensor]) -> nn.Module:
    model = import_module("mmpretrain.models").SwinTransformerV2(**_sizes_v2(spec))
    # What it lacks then are buffers, which follow from sizes.
    return _loaded(model, state)


def _mmdet(spec: Spec, state: dict[str, Tensor]) -> nn.Module:
    model = import_module("mmdet.models").SwinTransformer(**_sizes(spec))
    model.load_state_dict(state)
    return model


def _timm(spec: Spec, state: dict[str, Tensor]) -> nn.Module:
    if -(-min(spec.size) // 32) < spec.window_size:  # where timm takes smaller windows
        raise UserError(
            f"timm needs images of more than {32 * (spec.window_size - 1)} pixels for windows of "
            f"{spec.window_size}: remove it from --against, or raise --size"
        )
    body = import_module("timm").create_model(
        "swin_tiny_patch4_window7_224",  # the sizes below replace the tiny model's
        img_size=spec.size,
        window_size=spec.window_size,
        embed_dim=spec.embed_dims,
        depths=spec.depths,
        num_heads=spec.num_heads,
        drop_path_rate=spec.drop_path_rate,
        features_only=True,
    )
    model = Baseline(body, lambda body, image: body(image), spec.channels)
    # features_only calls the stages layers_0 to layers_3
    names = {k.replace("layers.", "layers_", 1): v for k, v in convert(state, "timm").state.items()}
    return _loaded(model, names)


def _torchvision(spec: Spec, state: dict[str, Tensor]) -> nn.Module:
    module = import_module("torchvision.models.swin_transformer")
    layers = {}
    if spec.version == 2:
        layers = {"block": module.SwinTransformerBlockV2, "downsample_layer": module.PatchMergingV2}
    whole = module.SwinTransformer(
        [_PATCH, _PATCH],
        spec.embed_dims,
        list(spec.depths),
        list(spec.num_heads),
        [spec.window_size, spec.window_size],
        stochastic_depth_prob=spec.drop_path_rate,
        **layers,
    )
    body = nn.ModuleDict({"features": whole.features})
    model = Baseline(body, _torchvision_maps, spec.channels)
    return _loaded(model, convert(state, "torchvision").state)


def _torchvision_maps(body: Any, x: Tensor) -> list[Tensor]:
    maps = []
    for i, part in enumerate(body["features"]):
        x = part(x)
        if i % 2:  # a stage; its feature map is taken before the merging that follows
            maps.append(x)
    return maps


def _hugging_face(spec: Spec, state: dict[str, Tensor]) -> nn.Module:
    transformers = import_module("transformers")
    kind = "Swinv2" if spec.version == 2 else "Swin"
    # Windows of V2 shrink to the maps of this size, which need not be that of the images.
    side = max(*spec.size, 64 * spec.window_size)
    config = getattr(transformers, f"{kind}Config")(
        image_size=side if spec.version == 2 else spec.size,
        embed_dim=spec.embed_dims,
        depths=list(spec.depths),
        num_heads=list(spec.num_heads),
        window_size=spec.window_size,
        drop_path_rate=spec.drop_path_rate,
        out_features=[f"stage{i + 1}" for i in range(_STAGES)],
    )
    body = getattr(transformers, f"{kind}Backbone")(config)
    if spec.version == 2:  # which has no output norms
        model = Baseline(body, _hugging_face_maps, spec.channels)
    else:
        model = Baseline(body, lambda body, image: body(image).feature_maps)
    return _loaded(model, convert(state, "hf").state)


def _hugging_face_maps(body: Any, image: Tensor) -> list[Tensor]:
    return [x.permute(0, 2, 3, 1) for x in body(image).feature_maps]


def _loaded(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """The model with weights that are named as its body names them; none may be missing."""
    own = dict(model.named_parameters())
    found = {name if name in own else f"body.{name}": value for name, value in state.items()}
    if missing := own.keys() & set(model.load_state_dict(found, strict=False).missing_keys):
        raise RuntimeError(f"no weights for {', '.join(sorted(missing)[:3])}")
    return model


# What builds a baseline, and the distribution that it comes from.
BASELINES: dict[str, tuple[Callable[[Spec, dict[str, Tensor]], nn.Module], str]] = {
    "mmdet": (_mmdet, "mmdet"),
    "mmpretrain": (_mmpretrain, "mmpretrain"),
    "timm": (_timm, "timm"),
    "hf": (_hugging_face, "transformers"),
    "torchvision": (_torchvision, "torchvision"),
}


def parse_baselines(text: str | None, spec: Spec) -> list[str]:
    """The baselines of a comma-separated list; with None all that have this version of Swin.

    Raises:
        UserError: one of them is unknown, or does not have this version.
    """
    others = {name for name, one in _ONLY_VERSION.items() if one != spec.version}
    if text is None:
        return [name for name in BASELINES if name not in others]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in BASELINES]:
        known = ", ".join(BASELINES)
        raise UserError(f"unknown baseline {unknown[0]!r} in --against: choose from {known}")
    if unfit := [name for name in names if name in others]:
        raise UserError(f"{unfit[0]} is not compared with Swin V{spec.version}: leave it out")
    return list(dict.fromkeys(names))


def installed(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Versions of the baselines that are installed, and the names of the others."""
    versions, missing = {}, []
    for name in names:
        try:
            versions[name] = version(BASELINES[name][1])
        except PackageNotFoundError:
            missing.append(name)
    return versions, missing


def build_models(spec: Spec, names: Collection[str], device: torch.device) -> dict[str, nn.Module]:
    """Ours and the named baselines with the same weights, in evaluation mode on ``device``."""
    ours = build_ours(spec)
    state = ours.state_dict()
    models: dict[str, nn.Module] = {OURS: ours}
    models |= {name: BASELINES[name][0](spec, dict(state)) for name in names}
    for model in models.values():
        model.to(device).eval()  # apart from each other: mmdet's eval() returns None
        if spec.compile:
            model.compile()
    return models


def check_baselines(
    spec: Spec, names: Collection[str], run: Run
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """:func:`check_agreement` of each baseline that runs, and why the others do not, by name.

    Raises:
        DisagreementError: a baseline does not agree where it should.
    """
    found: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            found |= check_agreement(spec, [name], run)
        except DisagreementError:
            raise
        except Exception as error:  # whatever another library's version of today raises
            failed[name] = reason_of(error)
    return found, failed


def check_agreement(spec: Spec, names: Collection[str], run: Run) -> dict[str, dict[str, Any]]:
    """Compare outputs and the gradient of the image, of one image, with ours.

    At sizes that are not whole windows, libraries for classification are other functions than
    dense prediction code. Their weights and blocks are then checked at a size where all agree.

    Returns:
        Of each baseline: ``difference``, ``checked_at`` (height, width), optionally a ``note``.

    Raises:
        DisagreementError: a baseline does not agree where it should.
    """
    side = 64 * spec.window_size
    check = spec if spec.whole_windows else replace(spec, size=(side, side))
    tolerance = TOLERANCES[run.dtype]
    records: dict[str, dict[str, Any]] = {}
    for name, error in _differences_of(spec, names, run).items():
        records[name] = {"difference": error, "checked_at": list(spec.size)}
    differing = [name for name in names if not records[name]["difference"] <= tolerance]
    excused = [n for n in differing if check is not spec and n not in _SAME_AT_EVERY_SIZE]
    for name, error in _differences_of(check, excused, run).items():
        there = records[name]["difference"]
        note = f"differs by {there:.1g} at the timed size, by definition (windows at the edges)"
        records[name] = {"difference": error, "checked_at": list(check.size), "note": note}
    for name, record in records.items():
        height, width = record["checked_at"]
        if not record["difference"] <= tolerance:
            raise DisagreementError(
                f"{name} and ours disagree by {record['difference']:.1g} at {height}x{width}, "
                f"{run.dtype}, with the same weights: nothing was timed"
            )
        record["difference"] = float(f"{record['difference']:.2g}")
    return records


def _differences_of(spec: Spec, names: Collection[str], run: Run) -> dict[str, float]:
    if not names:
        return {}
    return differences(build_models(spec, names, run.device), run.image(spec.size, batch=1), run)


def differences(models: Mapping[str, nn.Module], image: Tensor, run: Run) -> dict[str, float]:
    """Largest error of each model's feature maps, with and without gradients, and image gradient.

    Args:
        models: by name, :data:`OURS` among them, in evaluation mode.
        image: ``(B, 3, H, W)``.

    Returns:
        For each other model, the largest difference over ours' largest value; infinite if shapes
        differ.

    Raises:
        UserError: torch.compile fails on a model.
    """
    outputs = {}
    for name, model in models.items():
        try:
            outputs[name] = _outputs(model, image, run)
        except RuntimeError as error:
            # By name: the class is private, and importing it would load the compiler.
            if all(kind.__name__ != "TorchDynamoException" for kind in type(error).__mro__):
                raise
            raise UserError(
                f"torch.compile fails on {name} ({type(error).__name__}): remove it from "
                "--against, or remove --compile"
            ) from error
    expected = outputs.pop(OURS)
    return {name: largest_error(expected, found) for name, found in outputs.items()}


def _outputs(model: nn.Module, image: Tensor, run: Run) -> list[Tensor]:
    with torch.no_grad(), run.precision():
        # Without gradients a model may take another code path. Another image comes first, to detect
        # a CUDA graph that returns its earlier results.
        model(torch.zeros_like(image))
        inferred = [x.float().clone() for x in model(image)]
    image = image.detach().clone().requires_grad_()
    with run.precision():
        maps = [x.float() for x in model(image)]
    # Unequal weights, to detect exchanged positions or channels.
    total = sum(
        (x * torch.linspace(-1, 1, x.numel(), device=x.device).view_as(x)).sum() for x in maps
    )
    (gradient,) = torch.autograd.grad(total, image)
    return [*inferred, *(x.detach() for x in maps), gradient]
