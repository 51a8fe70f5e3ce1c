"""Parameters and multiply-accumulates of a model, counted without running its arithmetic.

Models are built on PyTorch's meta device, where a tensor has a shape and no memory, and PyTorch's
own counter looks at the operators that one forward would run. As in the paper (tables 2 and 3)
one "FLOP" is one multiply-accumulate of a matrix product or of a convolution, those of attention
included; norms, activations, interpolation and the addition of biases do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401 (registers its operators)
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from swin_dense.analysis.building import build_on_meta
from swin_dense.analysis.forward import forward_detector, forward_segmentor, pool_shapes
from swin_dense.backbones.swin import WindowAttention
from swin_dense.config_tree import is_segmentation
from swin_dense.engine.config.load import read_config

Forward = Callable[[nn.Module, Tensor], Any]
DETECTION_SIZE = (800, 1280)
# By the side of the square training crops.
SEGMENTATION_SIZES = {512: (512, 2048), 640: (640, 2560)}


@dataclass(frozen=True)
class Counts:
    """What a forward of one image costs.

    Attributes:
        params: learnable numbers.
        macs: multiply-accumulates.
        image_size: height and width in pixels.
        params_of, macs_of: the same of every submodule, those of its children included.
        outside_layers_of: of ``macs_of``, those of no layer with weights of its own: the matrix
            products of attention and the like. Counters that look at layers miss them.
    """

    params: int
    macs: int
    image_size: tuple[int, int]
    params_of: dict[str, int] = field(repr=False)
    macs_of: dict[str, int] = field(repr=False)
    outside_layers_of: dict[str, int] = field(repr=False)

    @property
    def params_m(self) -> float:
        """Millions of parameters."""
        return self.params / 1e6

    @property
    def flops_g(self) -> float:
        """Billions of multiply-accumulates."""
        return self.macs / 1e9

    def report(self, depth: int = 2) -> str:
        """Lines of ``module, M parameters, G multiply-accumulates``, for modules to this depth."""
        lines = [f"total {self.params_m:.2f} M {self.flops_g:.1f} G at {self.image_size}"]
        for name, params in self.params_of.items():
            if name.count(".") < depth and (params or self.macs_of[name]):
                macs = self.macs_of[name] / 1e9
                lines.append(f"  {name}: {params / 1e6:.2f} M, {macs:.1f} G")
        return "\n".join(lines)


def count_config(
    config: str | Path | Config,
    image_size: tuple[int, int] | None = None,
    *,
    project_padding: bool = True,
    forward: Forward | None = None,
) -> Counts:
    """Count a config's model on one image of the size that the paper takes.

    Args:
        config: a config of mmdet's or mmseg's kind, or the path of one.
        image_size: height and width in pixels. By default 800 x 1280 for detectors; for
            segmentors 512 x 2048, or 640 x 2560 where the training crop is 640.
        project_padding: count what the paper's code does with a feature map that windows do not
            divide: pad it before the linear layers of the attention. The backbone here pads
            after the first of them and crops before the last, so it does up to 2 % less; False
            counts that.
        forward: how to call the model with an image, where it is no detector or segmentor.

    Raises:
        UserError: there is no such config, or it cannot be read.
    """
    cfg = config if isinstance(config, Config) else read_config(config)
    if is_segmentation(cfg):
        crop = cfg.model.data_preprocessor.get("size") or cfg.get("crop_size") or (512, 512)
        size = SEGMENTATION_SIZES.get(crop[0], SEGMENTATION_SIZES[512])
        usual: Forward = forward_segmentor
    else:
        size, usual = DETECTION_SIZE, forward_detector
    model = build_on_meta(cfg)
    pool_shapes(model)
    if project_padding:
        _pad_before_projections(model)
    return count_model(model, forward or usual, image_size or size)


def _pad_before_projections(model: nn.Module) -> None:
    """Let window attention pad before its linear layers, as the paper's code does."""

    def pad_to(window_size: int) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
        def pad(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
            height, width = inputs[0].shape[1:3]
            return F.pad(inputs[0], (0, 0, 0, -width % window_size, 0, -height % window_size))

        return pad

    def crop(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        height, width = inputs[0].shape[1:3]
        return output[:, :height, :width]

    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.qkv.register_forward_pre_hook(pad_to(module.window_size))
            module.register_forward_hook(crop)


def count_model(model: nn.Module, forward: Forward, image_size: tuple[int, int]) -> Counts:
    """Count ``forward(model, image)`` for one RGB image of ``image_size`` (height, width).

    The image is on the meta device, and so should the model be.
    """
    image = torch.empty(1, 3, *image_size, device="meta")
    # The counter learns a module's name from its caller: let the model be the one that is called.
    call = _Call(model, forward)
    counter = FlopCounterMode(display=False, custom_mapping=_MORE_OPERATORS)
    with counter, torch.no_grad(), torch.device("meta"):
        call(image)
    macs = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    root = f"{type(call).__name__}.model"
    found: dict[str, tuple[int, int]] = {}
    _collect(model, root, macs, found)
    parts = {name: part for name, part in model.named_modules() if name}
    macs_of = {name: found[f"{root}.{name}"] for name in parts}
    return Counts(
        params=_params(model),
        macs=macs.get("Global", 0),
        image_size=image_size,
        params_of={name: _params(part) for name, part in parts.items()},
        macs_of={name: total for name, (total, _) in macs_of.items()},
        outside_layers_of={name: total - inside for name, (total, inside) in macs_of.items()},
    )


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _collect(
    module: nn.Module, name: str, macs: dict[str, int], found: dict[str, tuple[int, int]]
) -> tuple[int, int]:
    """All multiply-accumulates of a module, and those in layers: parts without children that have
    weights. A container that is never called has its children's."""
    children = [_collect(c, f"{name}.{key}", macs, found) for key, c in module.named_children()]
    total = macs.get(name, sum(of_child for of_child, _ in children))
    inside = sum(in_child for _, in_child in children)
    if not children and _params(module):
        inside = total
    found[name] = (total, inside)
    return found[name]


class _Call(nn.Module):
    """``model`` as called by ``forward``, so that its submodules are named from here."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, image: Tensor) -> Any:
        return self._forward(self.model, image)


def _deform_conv_flops(
    input: Any, weight: Any, offset: Any, mask: Any, bias: Any, *_: Any, out_shape: Any, **__: Any
) -> int:
    """As of the plain convolution; the bilinear sampling is interpolation."""
    return 2 * prod(out_shape) * prod(weight[1:])


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# Operators of matrix products that PyTorch's counter does not know. PyTorch counts multiplications
# and additions, so these do too.
_MORE_OPERATORS = {torch.ops.torchvision.deform_conv2d: _deform_conv_flops} | {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kind}"): _attention_flops
    for kind in ("flash_attention_for_cpu", "fused_attention_overrideable")
}
