"""Masks by convolutions whose weights are predicted for each object (CondInst, 2003.05664).

With the auxiliary outputs, the names of parameters and the order of predicted weights of the
Mask RepPointsV2 code base: its released weights load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from swin_dense.registry import MODELS


class MaskQueries(NamedTuple):
    """Objects whose masks are wanted, n of them from any images of a batch.

    Args:
        params: ``(n, P)`` weights of each object's convolutions.
        locations: ``(n, 2)`` x, y in pixels of what the convolutions take for the object's place.
        levels: ``(n,)`` pyramid level that found the object.
        images: ``(n,)`` index of its image in the batch.
    """

    params: Tensor
    locations: Tensor
    levels: Tensor
    images: Tensor

    def take(self, index: Tensor) -> MaskQueries:
        """The objects at ``index``."""
        return MaskQueries(*(part[index] for part in self))


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear, ``(B, C, H, W)`` to ``factor`` times H and W; centres of cells stay centres."""
    if factor == 1:
        return x
    height, width = x.shape[2:]
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    size = (height * factor + 1, width * factor + 1)
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    x = F.pad(x, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return x[:, :, : size[0] - 1, : size[1] - 1]


def dice_loss(scores: Tensor, target: Tensor) -> Tensor:
    """One minus the Dice coefficient of each pair of masks (V-Net, 1606.04797): ``(n,)``."""
    scores, target = scores.flatten(1).float(), target.flatten(1).float()
    shared = (scores * target).sum(1)
    return 1 - 2 * shared / ((scores**2).sum(1) + (target**2).sum(1) + 1e-5)


class MaskBranch(nn.Module):
    """Map that all objects of an image share, from the finest levels of the pyramid."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        num_levels: int,
        num_convs: int,
        norm_cfg: dict,
    ) -> None:
        super().__init__()

        def conv(first: int) -> ConvModule:
            return ConvModule(first, channels, 3, padding=1, norm_cfg=norm_cfg)

        self.refine = nn.ModuleList(conv(in_channels) for _ in range(num_levels))
        self.tower = nn.Sequential(
            *(conv(channels) for _ in range(num_convs)), nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """``(B, in_channels, H_i, W_i)``, the finest first, to ``(B, out_channels, H_0, W_0)``."""
        merged = self.refine[0](features[0])
        height, width = merged.shape[2:]
        for level, conv in enumerate(self.refine[1:], start=1):
            # Cut where a size was rounded up on its way to the coarser level.
            merged = merged + upsample(conv(features[level]), 2**level)[:, :, :height, :width]
        return self.tower(merged)


class ConditionalConvs(nn.Module):
    """1 x 1 convolutions with weights of each object's own, over its image's shared map.

    Before the last one, every layer can also be read out as a mask by itself, which helps to
    train it. The inputs of the first are x and y relative to the object, then the shared map.
    """

    sizes_of_interest: Tensor

    def __init__(
        self, in_channels: int, channels: int, num_layers: int, sizes_of_interest: Sequence[int]
    ) -> None:
        super().__init__()
        self.register_buffer("sizes_of_interest", torch.tensor(sizes_of_interest))
        inputs = [in_channels + 2, *[channels] * (num_layers - 1)]
        outputs = [*[channels] * (num_layers - 1), 1]
        self.shapes = list(zip(outputs, inputs, strict=True))
        self.aux_shapes = [(1, size) for size in inputs[:-1]]
        self.num_params = sum((i + 1) * o for o, i in self.shapes + self.aux_shapes)

    def layers(self, params: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Split ``(n, num_params)`` into weights ``(n, out, in)`` and biases ``(n, out, 1)``.

        First all layers, then the auxiliary outputs before each layer but the last.
        """
        found: list[tuple[Tensor, Tensor]] = []
        start = 0
        for shapes in (self.shapes, self.aux_shapes):
            sizes = [o * i for o, i in shapes] + [o for o, _ in shapes]
            parts = params[:, start : start + sum(sizes)].split(sizes, dim=1)
            start += sum(sizes)
            weights, biases = parts[: len(shapes)], parts[len(shapes) :]
            found += [
                (w.unflatten(1, shape), b[:, :, None])
                for w, b, shape in zip(weights, biases, shapes, strict=True)
            ]
        return found

    def forward(
        self, shared: Tensor, queries: MaskQueries, stride: int, wanted: Sequence[bool]
    ) -> list[Tensor]:
        """Logits ``(n, 1, H, W)`` of every wanted output; the last output is the mask.

        Args:
            shared: ``(B, C, H, W)`` maps of the images.
            queries: n objects.
            stride: pixels between the maps' points.
            wanted: for each layer, whether to read it out.
        """
        height, width = shared.shape[2:]
        layers = self.layers(queries.params)
        main, aux = layers[: len(self.shapes)], layers[len(self.shapes) :]
        x = torch.cat([self._places(queries, height, width, stride), shared[queries.images]], 1)
        x, outputs = x.flatten(2), []
        for index, (weight, bias) in enumerate(main):
            last = index == len(main) - 1
            if wanted[index] and not last:
                aux_weight, aux_bias = aux[index]
                outputs.append(aux_weight @ x + aux_bias)
            x = weight @ x + bias
            x = x if last else x.relu()
        return [out.unflatten(2, (height, width)) for out in [*outputs, x]]

    def _places(self, queries: MaskQueries, height: int, width: int, stride: int) -> Tensor:
        """``(n, 2, H, W)``: from every point to the object, in units of its level's objects."""
        device = queries.locations.device
        x, y = (torch.arange(n, device=device) * stride + stride // 2 for n in (width, height))
        points = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
        scale = self.sizes_of_interest[queries.levels][:, None, None, None]
        return (queries.locations[:, :, None, None] - points) / scale


@MODELS.register_module()
class ConditionalMaskHead(BaseModule):
    """Mask head of Mask RepPointsV2: a shared map and a small network for every object.

    Args:
        in_channels: channels of the pyramid.
        channels: channels of the convolutions that make the shared map.
        num_convs: how many of these there are.
        mask_channels: channels of the shared map and of each object's network.
        num_layers: layers of each object's network.
        num_levels: levels of the pyramid that the shared map is made of.
        feat_stride: pixels between the points of the shared map.
        out_stride: pixels between the points of the masks.
        sizes_of_interest: size in pixels of the objects of each level.
        max_instances: objects of a batch that are trained on; more are drawn from at random.
        loss_weights: of each layer's output; with weight 0 it is not computed.
        norm_cfg: normalisation after the convolutions.
    """

    def __init__(
        self,
        in_channels: int = 256,
        channels: int = 128,
        num_convs: int = 4,
        mask_channels: int = 8,
        num_layers: int = 3,
        num_levels: int = 3,
        feat_stride: int = 8,
        out_stride: int = 4,
        sizes_of_interest: Sequence[int] = (64, 128, 256, 512, 1024),
        max_instances: int = 500,
        loss_weights: Sequence[float] = (0.0, 0.6, 1.0),
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(loss_weights) != num_layers:
            raise ValueError(f"ConditionalMaskHead: {num_layers} layers, weights {loss_weights}")
        norm_cfg = norm_cfg or {"type": "BN"}
        self.feat_stride = feat_stride
        self.out_stride = out_stride
        self.max_instances = max_instances
        self.loss_weights = tuple(loss_weights)
        self.branch = MaskBranch(
            in_channels, channels, mask_channels, num_levels, num_convs, norm_cfg
        )
        self.head = ConditionalConvs(mask_channels, mask_channels, num_layers, sizes_of_interest)

    @property
    def num_params(self) -> int:
        """How many numbers each object's network takes."""
        return self.head.num_params

    def loss(
        self, features: Sequence[Tensor], queries: MaskQueries, masks: Tensor, objects: Tensor
    ) -> dict[str, Tensor]:
        """Dice losses of predictions against the masks of their objects.

        Args:
            features: pyramid of the batch.
            queries: n predictions.
            masks: ``(K, H, W)`` of zeros and ones, of all objects, in images of the pyramid's
                full size.
            objects: ``(n,)`` index of each prediction's object.
        """
        shared = self.branch(features)
        wanted = [weight > 0 for weight in self.loss_weights]
        names = [f"loss_mask_{i}" for i, is_wanted in enumerate(wanted) if is_wanted]
        if not len(queries.params):  # a gradient of zero, for DistributedDataParallel
            nothing = shared.sum() * 0 + sum(part.sum() * 0 for part in queries[:2])
            return dict.fromkeys(names, nothing)
        if len(queries.params) > self.max_instances:
            chosen = torch.randperm(len(objects), device=objects.device)[: self.max_instances]
            queries, objects = queries.take(chosen), objects[chosen]
        middle = slice(self.out_stride // 2, None, self.out_stride)
        targets = masks[:, middle, middle][objects]
        weights = [weight for weight in self.loss_weights if weight > 0]
        scores = self._scores(shared, queries, wanted)
        return {
            name: weight * dice_loss(score, targets).mean()
            for name, weight, score in zip(names, weights, scores, strict=True)
        }

    @torch.no_grad()
    def predict(
        self,
        features: Sequence[Tensor],
        queries: MaskQueries,
        image_size: tuple[int, int],
        out_size: tuple[int, int],
        threshold: float,
    ) -> Tensor:
        """Masks ``(n, *out_size)`` of zeros and ones (bool) of the objects of one image.

        Args:
            features: pyramid of the image, ``(1, C, H_i, W_i)``.
            queries: its n objects.
            image_size: height and width in pixels, without padding.
            out_size: height and width that the masks are resized to.
            threshold: probability from which a pixel belongs to the object.
        """
        if not len(queries.params):
            return queries.params.new_zeros(0, *out_size, dtype=torch.bool)
        only_last = [False] * (len(self.loss_weights) - 1) + [True]
        (scores,) = self._scores(self.branch(features), queries, only_last)
        masks = []
        for part in scores.float()[:, None].split(16):  # whole images of floats take memory
            part = upsample(part, self.out_stride)[:, :, : image_size[0], : image_size[1]]
            part = F.interpolate(part, size=out_size, mode="bilinear", align_corners=False)
            masks.append(part[:, 0] > threshold)
        return torch.cat(masks)

    def _scores(self, shared: Tensor, queries: MaskQueries, wanted: Sequence[bool]) -> list[Tensor]:
        """Probabilities ``(n, H, W)`` at ``out_stride`` of every wanted output."""
        logits = self.head(shared, queries, self.feat_stride, wanted)
        factor = self.feat_stride // self.out_stride
        return [upsample(x, factor).sigmoid()[:, 0] for x in logits]
