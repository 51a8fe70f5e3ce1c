"""Parameter names and shapes of the authors' released files, from their public code.

Detectors: mmdet 2.11 with ``mmdet/models/backbones/swin_transformer.py`` of
SwinTransformer/Swin-Transformer-Object-Detection. Segmentors: mmseg 0.11 of
SwinTransformer/Swin-Transformer-Semantic-Segmentation. Listed module by module, in the order in
which constructors create parameters, and independent of this package's conversion.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch

Named = Iterator[tuple[str, tuple[int, ...]]]


@dataclass
class Sizes:
    """Swin-T as released, with the heads' widths of the release."""

    channels: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    neck: int = 256
    fc: int = 1024
    classes: int = 80
    segment: int = 512
    auxiliary: int = 256

    def stage(self, i: int) -> int:
        return self.channels * 2**i


def weight_and_bias(name: str, *shape: int) -> Named:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def norm(name: str, channels: int) -> Named:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def batch_norm(name: str, channels: int) -> Named:
    yield from norm(name, channels)
    yield f"{name}.running_mean", (channels,)
    yield f"{name}.running_var", (channels,)
    yield f"{name}.num_batches_tracked", ()


def conv_bn(name: str, out: int, into: int, side: int) -> Named:
    """mmcv's ConvModule with a norm has no bias."""
    yield f"{name}.conv.weight", (out, into, side, side)
    yield from batch_norm(f"{name}.bn", out)


def conv(name: str, out: int, into: int, side: int) -> Named:
    yield from weight_and_bias(f"{name}.conv", out, into, side, side)


def backbone(s: Sizes) -> Named:
    yield from weight_and_bias("backbone.patch_embed.proj", s.channels, 3, 4, 4)
    yield from norm("backbone.patch_embed.norm", s.channels)
    for i, depth in enumerate(s.depths):
        c = s.stage(i)
        for j in range(depth):
            block = f"backbone.layers.{i}.blocks.{j}"
            yield from norm(f"{block}.norm1", c)
            yield (
                f"{block}.attn.relative_position_bias_table",
                ((2 * s.window - 1) ** 2, s.heads[i]),
            )
            yield f"{block}.attn.relative_position_index", (s.window**2, s.window**2)
            yield from weight_and_bias(f"{block}.attn.qkv", 3 * c, c)
            yield from weight_and_bias(f"{block}.attn.proj", c, c)
            yield from norm(f"{block}.norm2", c)
            yield from weight_and_bias(f"{block}.mlp.fc1", 4 * c, c)
            yield from weight_and_bias(f"{block}.mlp.fc2", c, 4 * c)
        if i < len(s.depths) - 1:
            yield f"backbone.layers.{i}.downsample.reduction.weight", (2 * c, 4 * c)
            yield from norm(f"backbone.layers.{i}.downsample.norm", 4 * c)
    for i in range(len(s.depths)):
        yield from norm(f"backbone.norm{i}", s.stage(i))


def neck_and_rpn(s: Sizes) -> Named:
    for i in range(4):
        yield from conv(f"neck.lateral_convs.{i}", s.neck, s.stage(i), 1)
    for i in range(4):
        yield from conv(f"neck.fpn_convs.{i}", s.neck, s.neck, 3)
    yield from weight_and_bias("rpn_head.rpn_conv", s.neck, s.neck, 3, 3)
    yield from weight_and_bias("rpn_head.rpn_cls", 3, s.neck, 1, 1)
    yield from weight_and_bias("rpn_head.rpn_reg", 12, s.neck, 1, 1)


def box_outputs(head: str, s: Sizes) -> Named:
    yield from weight_and_bias(f"{head}.fc_cls", s.classes + 1, s.fc)
    yield from weight_and_bias(f"{head}.fc_reg", 4 * s.classes, s.fc)


def mask_head(head: str, s: Sizes) -> Named:
    for i in range(4):
        yield from conv(f"{head}.convs.{i}", s.neck, s.neck, 3)
    yield from weight_and_bias(f"{head}.upsample", s.neck, s.neck, 2, 2)
    yield from weight_and_bias(f"{head}.conv_logits", s.classes, s.neck, 1, 1)


def mask_rcnn(s: Sizes) -> Named:
    """configs/swin/mask_rcnn_swin_*: Shared2FCBBoxHead."""
    yield from backbone(s)
    yield from neck_and_rpn(s)
    yield from box_outputs("roi_head.bbox_head", s)
    yield from weight_and_bias("roi_head.bbox_head.shared_fcs.0", s.fc, 49 * s.neck)
    yield from weight_and_bias("roi_head.bbox_head.shared_fcs.1", s.fc, s.fc)
    yield from mask_head("roi_head.mask_head", s)


def cascade(s: Sizes) -> Named:
    """configs/swin/cascade_mask_rcnn_swin_*: 4conv1fc heads with SyncBN, three of each."""
    yield from backbone(s)
    yield from neck_and_rpn(s)
    for k in range(3):
        head = f"roi_head.bbox_head.{k}"
        yield from box_outputs(head, s)
        for i in range(4):
            yield from conv_bn(f"{head}.shared_convs.{i}", s.neck, s.neck, 3)
        yield from weight_and_bias(f"{head}.shared_fcs.0", s.fc, 49 * s.neck)
    for k in range(3):
        yield from mask_head(f"roi_head.mask_head.{k}", s)


def upernet(s: Sizes) -> Named:
    """configs/swin/upernet_swin_*: UPerHead and FCNHead."""
    yield from backbone(s)
    last = s.stage(3)
    yield from weight_and_bias("decode_head.conv_seg", s.classes, s.segment, 1, 1)
    for i in range(4):
        yield from conv_bn(f"decode_head.psp_modules.{i}.1", s.segment, last, 1)
    yield from conv_bn("decode_head.bottleneck", s.segment, last + 4 * s.segment, 3)
    for i in range(3):
        yield from conv_bn(f"decode_head.lateral_convs.{i}", s.segment, s.stage(i), 1)
    for i in range(3):
        yield from conv_bn(f"decode_head.fpn_convs.{i}", s.segment, s.segment, 3)
    yield from conv_bn("decode_head.fpn_bottleneck", s.segment, 4 * s.segment, 3)
    yield from weight_and_bias("auxiliary_head.conv_seg", s.classes, s.auxiliary, 1, 1)
    yield from conv_bn("auxiliary_head.convs.0", s.auxiliary, s.stage(2), 3)


def random_state(named: Named) -> OrderedDict:
    """Random values that keep activations in range; positive statistics of batch norm."""
    state = OrderedDict()
    for name, shape in named:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("relative_position_index"):
            state[name] = torch.zeros(shape, dtype=torch.long)  # must be computed, not copied
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            state[name] = 1 + 0.2 * torch.rand(shape)
        else:
            fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 25
            state[name] = torch.randn(shape) / fan_in**0.5
    return state


def released(state: OrderedDict, classes: tuple[str, ...]) -> dict:
    """A file as mmcv 1.x saved it, with apex's and the optimizer's entries beside the weights."""
    return {
        "meta": {"mmdet_version": "2.11.0", "epoch": 36, "iter": 9, "CLASSES": classes},
        "state_dict": state,
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 12}},
    }
