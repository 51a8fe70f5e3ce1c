"""OpenMMLab's Swin against ours in any config: names, optimizer groups, feature maps.

One line replaces the backbone, ``model.backbone.type=swin_dense.SwinTransformer``, or for
mmpretrain's Swin V2 ``swin_dense.SwinTransformerV2``. This module finds the configs of the
installed mmdet and mmsegmentation where that is possible, and compares what both classes make of
them. Swin V2 is compared with padding of small maps and without stochastic depth, which
mmpretrain's drops before the norms.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from swin_dense.analysis.building import randomize_parameters, without_initialization
from swin_dense.checkpoints.layouts.base import INDEX
from swin_dense.errors import UserError, reason_of
from swin_dense.registry import MODELS

STOCK = "SwinTransformer"
STOCK_V2 = "mmpretrain.SwinTransformerV2"
OURS = "swin_dense.SwinTransformer"
_OURS = {STOCK: OURS, STOCK_V2: "swin_dense.SwinTransformerV2"}
ZOOS = ("mmdet", "mmseg")
# Odd, not square, and not a multiple of any window: every kind of padding occurs.
_IMAGE_SIZE = (51, 70)


@dataclass(frozen=True)
class Comparison:
    """What our backbone changes: nothing, if the names are empty and the errors are rounding.

    Attributes:
        names: parameters and buffers that only one of the two has, or with another shape.
        groups: parameters whose optimizer settings differ.
        evaluating, training: largest relative error of a feature map; training has stochastic
            depth.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    evaluating: float
    training: float


def zoo_folder(package: str) -> Path:
    """Folder of the configs that were installed with ``package``."""
    return Path(str(import_module(package).__file__)).parent / ".mim" / "configs"


def zoo_configs(packages: Sequence[str] = ZOOS, folder: str = "") -> Iterator[tuple[str, Config]]:
    """Every config with a stock Swin backbone in the installed zoos, or in one of their folders.

    Names are package and file, as in ``mmdet/dino/dino-5scale_swin-l_8xb2-12e_coco.py``.
    """
    for package in packages:
        root = zoo_folder(package)
        for path in sorted((root / folder).rglob("*swin*.py")):
            cfg = Config.fromfile(path)
            if backbone_type(cfg) == STOCK:
                yield f"{package}/{path.relative_to(root).as_posix()}", cfg


def backbone_type(cfg: Config) -> str | None:
    """``model.backbone.type`` without its scope if that is OpenMMLab's; None without a backbone."""
    kind = (cfg.get("model") or {}).get("backbone", {}).get("type")
    return kind.removeprefix("mmdet.").removeprefix("mmseg.") if isinstance(kind, str) else None


def with_our_backbone(cfg: Config) -> Config:
    """A copy of the config with our backbone.

    Raises:
        UserError: its backbone is not a stock Swin Transformer.
    """
    kind = backbone_type(cfg)
    if kind not in _OURS:
        expected = " or ".join(map(repr, _OURS))
        raise UserError(f"model.backbone.type is {kind!r}, expected {expected}")
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.type = _OURS[kind]
    return cfg


def comparison_key(cfg: Config) -> tuple[str, str]:
    """Texts that are the same for configs with the same backbone, and with the same optimizer."""
    backbone = {k: v for k, v in cfg.model.backbone.to_dict().items() if k != "init_cfg"}
    backbone_key, optimizer_key = (
        json.dumps(part, sort_keys=True, default=str)
        for part in (backbone, cfg.get("optim_wrapper", {}))
    )
    return backbone_key, optimizer_key


def build_backbone(cfg: Config) -> nn.Module:
    """The config's backbone, with uninitialised parameters."""
    scope = cfg.get("default_scope", "mmdet")
    import_module(f"{scope}.models")
    arguments = {k: v for k, v in cfg.model.backbone.items() if k != "init_cfg"}
    if arguments["type"].endswith("SwinTransformerV2"):
        arguments |= {"pad_small_map": True, "drop_path_rate": 0.0}
    if arguments["type"] == STOCK_V2:
        try:
            import_module("mmpretrain.models")
        except Exception as error:  # with transformers 4.57 a TypeError
            raise UserError(
                f"{STOCK_V2} cannot be imported ({reason_of(error)}): to compare with it, install "
                "mmpretrain and a transformers that it works with, such as 4.49"
            ) from error
    with DefaultScope.overwrite_default_scope(scope), without_initialization():
        return MODELS.build(arguments)


def build_optimizer(model: nn.Module, cfg: Config, amp_dtype: str | None = None) -> OptimWrapper:
    """The config's optimizer, with mixed precision only if ``amp_dtype`` names a dtype."""
    wrapper = {**cfg.optim_wrapper.to_dict(), "type": "OptimWrapper"}
    for only_amp in ("loss_scale", "dtype", "use_fsdp"):
        wrapper.pop(only_amp, None)
    if amp_dtype is not None:
        wrapper |= {"type": "AmpOptimWrapper", "dtype": amp_dtype}
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
        return build_optim_wrapper(model, wrapper)


def parameter_settings(cfg: Config) -> dict[str, dict[str, Any]]:
    """Learning rate, weight decay and other optimizer settings of each backbone parameter.

    The backbone is a child named ``backbone``, as in every detector and segmentor, so that the
    patterns of ``paramwise_cfg`` apply.
    """
    model = nn.Module()
    model.backbone = build_backbone(cfg)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: {k: v for k, v in group.items() if k != "params"}
        for group in build_optimizer(model, cfg).optimizer.param_groups
        for parameter in group["params"]
    }


def compare(cfg: Config) -> Comparison:
    """Compares the stock backbone of a config with ours, at the config's full size.

    Raises:
        UserError: the config's backbone is not a stock Swin Transformer.
    """
    return Comparison(different_names(cfg), different_groups(cfg), *feature_map_errors(cfg))


def different_names(cfg: Config) -> tuple[str, ...]:
    """Names that only one state dict has, or with another shape; all, if their order differs."""
    theirs, ours = build_backbone(cfg), build_backbone(with_our_backbone(cfg))
    kind = backbone_type(cfg)
    a, b = (
        # Ours of Swin V2 does not save the index, which follows from the window.
        {k: v.shape for k, v in model.state_dict().items() if kind != STOCK_V2 or INDEX not in k}
        for model in (theirs, ours)
    )
    if [n for n, _ in theirs.named_parameters()] != [n for n, _ in ours.named_parameters()]:
        return tuple(sorted(a.keys() | b.keys()))
    return tuple(sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name)))


def different_groups(cfg: Config) -> tuple[str, ...]:
    """Parameters with another learning rate, weight decay or other optimizer setting."""
    if not cfg.get("optim_wrapper"):
        return ()
    theirs, ours = parameter_settings(cfg), parameter_settings(with_our_backbone(cfg))
    return tuple(sorted(n for n in theirs.keys() | ours.keys() if theirs.get(n) != ours.get(n)))


def feature_map_errors(cfg: Config) -> tuple[float, float]:
    """Largest relative error of a feature map with the same weights, evaluating and training."""
    theirs, ours = build_backbone(cfg), build_backbone(with_our_backbone(cfg))
    randomize_parameters(theirs)
    ours.load_state_dict(theirs.state_dict())
    channels = cfg.model.backbone.get("in_channels", 3)
    image = torch.randn(1, channels, *_IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    evaluating, training = (
        largest_error(feature_maps(theirs, image, mode), feature_maps(ours, image, mode))
        for mode in (False, True)
    )
    return evaluating, training


def feature_maps(model: nn.Module, image: Tensor, training: bool) -> list[Tensor]:
    """The backbone's feature maps; the same random numbers on every call."""
    model.train(training)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        return list(model(image))


def largest_error(theirs: Sequence[Tensor], ours: Sequence[Tensor]) -> float:
    """Largest difference over the largest value; infinite if shapes differ or a value is nan."""
    if [x.shape for x in theirs] != [x.shape for x in ours]:
        return float("inf")
    pairs = zip(theirs, ours, strict=True)
    errors = [float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs]
    # max() would pass over a nan that is not the first
    return float("inf") if any(error != error for error in errors) else max(errors)
