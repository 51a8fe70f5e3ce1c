"""Parameters and multiply-accumulates of a model, counted without running its arithmetic.

Models are built on PyTorch's meta device, where a tensor has a shape and no memory, and PyTorch's
own counter looks at the operators that one forward would run. As in the paper (tables 2 and 3)
one "FLOP" is one multiply-accumulate of a matrix product or of a convolution, those of attention
included; norms, activations, interpolation and the addition of biases do not count.

What a detector does with an image depends on what is in it: how many regions survive the
suppression of duplicates, on which level each is pooled. The paper's counts (and the speeds of
published detectors) take 1000 regions for every box head and 100 for every mask head.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401 (registers its operators)
from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead, SparseRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from swin_dense.analysis.building import build_on_meta
from swin_dense.backbones.swin import WindowAttention
from swin_dense.backbones.swin_v2 import CosineWindowAttention
from swin_dense.config_tree import is_segmentation
from swin_dense.engine.config.load import read_config
from swin_dense.errors import UserError
from swin_dense.ops.torch_versions import too_old

Forward = Callable[[nn.Module, Tensor], Any]
FeatureMaps = tuple[Tensor, ...]
BOX_REGIONS = 1000
MASK_REGIONS = 100
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
    model = getattr(model, "teacher", model)  # predicts, without the student
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
        if isinstance(module, (WindowAttention, CosineWindowAttention)):
            module.qkv.register_forward_pre_hook(pad_to(module.window_size))
            module.register_forward_hook(crop)


def count_model(model: nn.Module, forward: Forward, image_size: tuple[int, int]) -> Counts:
    """Count ``forward(model, image)`` for one RGB image of ``image_size`` (height, width).

    The image is on the meta device, and so should the model be.

    Raises:
        UserError: PyTorch's counter is too old.
    """
    if reason := too_old(2, 4):
        raise UserError(f"counting FLOPs {reason}")
    image = torch.empty(1, 3, *image_size, device="meta")
    # The counter learns a module's name from its caller: let the model be the one that is called.
    call = _Call(model, forward)
    counter = FlopCounterMode(display=False, custom_mapping=_MORE_OPERATORS)
    with counter, torch.no_grad(), torch.device("meta"):
        call(image)
    macs = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    root = f"{type(call).__name__}.model"
    macs_of: dict[str, int] = {}
    outside_layers_of: dict[str, int] = {}
    modules = list(model.named_modules(prefix=root, remove_duplicate=False))
    for name, part in reversed(modules):  # children first
        children = [f"{name}.{child}" for child, _ in part.named_children()]
        # A container that is never called has its children's.
        macs_of[name] = macs.get(name, sum(macs_of[child] for child in children))
        in_layers = sum(macs_of[child] - outside_layers_of[child] for child in children)
        is_layer = not children and _params(part) > 0
        outside_layers_of[name] = 0 if is_layer else macs_of[name] - in_layers
    parts = {name: part for name, part in model.named_modules() if name}
    return Counts(
        params=_params(model),
        macs=macs.get("Global", 0),
        image_size=image_size,
        params_of={name: _params(part) for name, part in parts.items()},
        macs_of={name: macs_of[f"{root}.{name}"] for name in parts},
        outside_layers_of={name: outside_layers_of[f"{root}.{name}"] for name in parts},
    )


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


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
    getattr(torch.ops.aten, name): _attention_flops
    for kind in ("flash_attention_for_cpu", "fused_attention_overrideable")
    # Not every version has both.
    if hasattr(torch.ops.aten, name := f"_scaled_dot_product_{kind}")
}


class PooledShapes(nn.Module):
    """Stands in for an RoI extractor: an empty tensor of the result's shape.

    Pooling is interpolation, which does not count, and mmdet's reads the boxes to find the feature
    map that each is pooled from, which tensors on the meta device do not have.
    """

    def __init__(self, extractor: SingleRoIExtractor) -> None:
        super().__init__()
        self.num_inputs = extractor.num_inputs
        self.shape = (extractor.out_channels, *extractor.roi_layers[0].output_size)

    def forward(self, maps: FeatureMaps, rois: Tensor, roi_scale_factor: Any = None) -> Tensor:
        """``(N, 5)`` regions to ``(N, C, H, W)``."""
        return maps[0].new_empty(len(rois), *self.shape)


def pool_shapes(model: nn.Module) -> None:
    """Replace every RoI extractor of a model by :class:`PooledShapes`."""
    # An extractor that two heads share has two names.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, SingleRoIExtractor):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PooledShapes(module))


def forward_segmentor(model: Any, images: Tensor) -> Tensor:
    """Scores of an mmseg segmentor for ``(1, 3, H, W)``: ``(1, classes, H, W)``.

    Auxiliary heads serve training only and do not run.
    """
    return model.encode_decode(images, [{"img_shape": tuple(images.shape[2:])}])


def forward_detector(model: Any, images: Tensor) -> None:
    """Backbone, neck and heads of an mmdet detector on ``(1, 3, H, W)``, on the meta device.

    The model's regions are pooled by :class:`PooledShapes`.
    """
    maps = model.extract_feat(images)
    if getattr(model, "roi_head", None) is None:
        model.bbox_head(maps)
    elif isinstance(model.roi_head, SparseRoIHead):
        _sparse_rcnn(model, maps)
    else:
        model.rpn_head(maps)
        _regions(model.roi_head, maps)


def _regions(head: Any, maps: FeatureMaps) -> None:
    """Box heads, then mask heads, as mmdet predicts with them."""
    rois = maps[0].new_zeros(BOX_REGIONS, 5)
    is_htc = isinstance(head, HybridTaskCascadeRoIHead)
    is_cascade = isinstance(head, CascadeRoIHead)
    stages = [(stage,) for stage in range(head.num_stages)] if is_cascade else [()]
    more = {}
    if is_htc and head.with_semantic:
        more["semantic_feat"] = head.semantic_head(maps)[1]
    for stage in stages:
        head._bbox_forward(*stage, maps, rois, **more)
    if not head.with_mask:
        return
    rois = rois[:MASK_REGIONS]
    if is_htc:
        head._mask_forward(-1, maps, rois, training=False, **more)  # all stages, interleaved
        return
    for stage in stages:
        head._mask_forward(*stage, maps, rois)


def _sparse_rcnn(model: Any, maps: FeatureMaps) -> None:
    """As many regions as there are learned proposals, in every stage."""
    head, proposals = model.roi_head, model.rpn_head
    features = proposals.init_proposal_features.weight[None]
    rois = maps[0].new_zeros(proposals.num_proposals, 5)
    for stage in range(head.num_stages):
        extractor = head.bbox_roi_extractor[stage]
        pooled = extractor(maps[: extractor.num_inputs], rois)
        _, _, features, _ = head.bbox_head[stage](pooled, features)
