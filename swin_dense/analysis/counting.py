"""Parameters and multiply-accumulates of a model, counted without running its arithmetic.

Models are built on PyTorch's meta device, where a tensor has a shape and no memory, and PyTorch's
own counter looks at the operators that one forward would run. As in the paper (tables 2 and 3)
one "FLOP" is one multiply-accumulate of a matrix product or of a convolution, those of attention
included; norms, activations, interpolation and the addition of biases do not count.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision  # noqa: F401 (registers its operators)
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from swin_dense.analysis.detectors import forward_detector
from swin_dense.analysis.segmentors import crop_size, forward_segmentor
from swin_dense.backbones.swin import WindowAttention
from swin_dense.config_tree import is_segmentation
from swin_dense.engine.config.load import read_config
from swin_dense.ops.window_attention.windows import padded_size

Forward = Callable[[nn.Module, Tensor], Any]
DETECTION_SIZE = (800, 1280)
SEGMENTATION_SIZES = {512: (512, 2048), 640: (640, 2560)}


@dataclass(frozen=True)
class Counts:
    """What one image costs: learnable numbers, and multiply-accumulates of one forward.

    Attributes:
        params: learnable numbers.
        macs: multiply-accumulates.
        image_size: height and width in pixels.
        params_of, macs_of: the same of every submodule, those of its children among them.
        outside_layers_of: of ``macs_of``, those that are done by no layer with weights of its own:
            the matrix products of attention and the like. Counters that look at layers miss them.
    """

    params: int
    macs: int
    image_size: tuple[int, int]
    params_of: dict[str, int] = field(repr=False)
    macs_of: dict[str, int] = field(repr=False)
    outside_layers_of: dict[str, int] = field(repr=False)

    def report(self, depth: int = 2) -> str:
        """Lines of ``module, M parameters, G multiply-accumulates``, for modules to this depth."""
        lines = [f"total {self.params / 1e6:.2f} M {self.macs / 1e9:.1f} G at {self.image_size}"]
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
        project_padding: count what the paper's code does with a map that windows do not divide:
            fill it up before the linear layers of the attention. The backbone here fills up
            after the first of them and cuts before the last, so it does up to 2 % less; False
            counts that.
        forward: how to call the model with an image, where it is no detector or segmentor.

    Raises:
        UserError: there is no such config, or it cannot be read.
    """
    cfg = config if isinstance(config, Config) else read_config(config)
    if is_segmentation(cfg):
        size = SEGMENTATION_SIZES.get(crop_size(cfg), SEGMENTATION_SIZES[512])
        usual: Forward = forward_segmentor
    else:
        size, usual = DETECTION_SIZE, forward_detector
    with _projected_padding() if project_padding else contextlib.nullcontext():
        return count_model(build_on_meta(cfg), forward or usual, image_size or size)


def build_on_meta(cfg: Config) -> nn.Module:
    """The config's model in evaluation mode, without memory for its parameters."""
    # Rates of stochastic depth are read back from this, which the meta device cannot.
    linspace = mock.patch.object(torch, "linspace", partial(torch.linspace, device="cpu"))
    scope = DefaultScope.overwrite_default_scope(cfg.default_scope)
    with linspace, scope, torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about training
        return MODELS.build(cfg.model).eval().requires_grad_(False)


def count_model(model: nn.Module, forward: Forward, image_size: tuple[int, int]) -> Counts:
    """Count ``forward(model, image)`` for one RGB image of ``image_size`` (height, width).

    The image is on the meta device, and so should the model be.
    """
    image = torch.empty(1, 3, *image_size, device="meta")
    # The counter learns a module's name from its caller: let the model be the one that is called.
    call = _Call(model, forward)
    counter = FlopCounterMode(display=False, custom_mapping=_MORE_OPERATORS)
    # A model may turn mixed precision off for some operators, which meta tensors do not know.
    autocast = mock.patch.object(torch, "autocast", return_value=contextlib.nullcontext())
    with counter, autocast, torch.no_grad(), torch.device("meta"):
        call(image)
    macs = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    root = f"{type(call).__name__}.model"
    parts = {name: (part, f"{root}.{name}") for name, part in model.named_modules() if name}
    macs_of = {name: _below(*part, macs) for name, part in parts.items()}
    return Counts(
        params=_params(model),
        macs=macs.get("Global", 0),
        image_size=image_size,
        params_of={name: _params(part) for name, (part, _) in parts.items()},
        macs_of=macs_of,
        outside_layers_of={
            name: macs_of[name] - _in_layers(*part, macs) for name, part in parts.items()
        },
    )


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _below(module: nn.Module, name: str, macs: dict[str, int]) -> int:
    """What was counted under ``name``; for a container that is never called, its children's."""
    if name in macs:
        return macs[name]
    children = module.named_children()
    return sum(_below(child, f"{name}.{child_name}", macs) for child_name, child in children)


def _in_layers(module: nn.Module, name: str, macs: dict[str, int]) -> int:
    """What was counted in modules without children that have weights."""
    children = list(module.named_children())
    if not children:
        return macs.get(name, 0) if _params(module) else 0
    return sum(_in_layers(child, f"{name}.{child_name}", macs) for child_name, child in children)


class _Call(nn.Module):
    """``model`` as called by ``forward``, so that its submodules are named from here."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._how = forward

    def forward(self, image: Tensor) -> Any:
        return self._how(self.model, image)


@contextlib.contextmanager
def _projected_padding() -> Iterator[None]:
    """Window attention fills its map up first, as the paper's code does; no result changes."""
    attend = WindowAttention.forward

    def forward(self: WindowAttention, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        rows, columns = padded_size(h, w, self.window_size)
        return attend(self, F.pad(x, (0, 0, 0, columns - w, 0, rows - h)))[:, :h, :w]

    with mock.patch.object(WindowAttention, "forward", forward):
        yield


def _deform_conv_flops(
    input: Any, weight: Any, offset: Any, mask: Any, bias: Any, *_: Any, out_shape: Any, **__: Any
) -> int:
    """As of the plain convolution; the bilinear sampling is interpolation."""
    return 2 * prod(out_shape) * prod(weight[1:])


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# Operators of matrix products that PyTorch's counter leaves out. PyTorch counts multiplications
# and additions, so these do too.
_MORE_OPERATORS = {
    torch.ops.torchvision.deform_conv2d: _deform_conv_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable: _attention_flops,
}
