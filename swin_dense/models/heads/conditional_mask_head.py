"""Masks by dynamic convolutions, predicted for each object (CondInst, arXiv 2003.05664).

Auxiliary outputs, parameter names and the order of predicted parameters are those of the Mask
RepPointsV2 code base, so that its released weights load.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from swin_dense.registry import MODELS


class MaskInstances(NamedTuple):
    """n objects of any images of a batch, whose masks are to be predicted.

    Args:
        params: ``(n, P)`` parameters of each object's convolutions.
        locations: ``(n, 2)`` x, y in pixels, the origin of each object's relative coordinates.
        levels: ``(n,)`` pyramid level that predicted the object.
        images: ``(n,)`` index of its image in the batch.
    """

    params: Tensor
    locations: Tensor
    levels: Tensor
    images: Tensor


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear, ``(B, C, H, W)`` to ``factor`` times H and W; centers of cells stay centers."""
    from mmdet.models.utils import aligned_bilinear  # its package is large

    return aligned_bilinear(x, factor)


def dice_loss(scores: Tensor, target: Tensor) -> Tensor:
    """One minus the Dice coefficient of each pair of masks (V-Net, 1606.04797): ``(n,)``."""
    scores, target = scores.flatten(1).float(), target.flatten(1).float()
    shared = (scores * target).sum(1)
    return 1 - 2 * shared / ((scores**2).sum(1) + (target**2).sum(1) + 1e-5)


class MaskBranch(nn.Module):
    """Feature map shared by all objects of an image, from the finest pyramid levels.

    ``channels`` are those of the input, of the convolutions and of the output.
    """

    def __init__(
        self, channels: Sequence[int], num_levels: int, num_convs: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        first, hidden, last = channels
        conv = partial(ConvModule, out_channels=hidden, kernel_size=3, padding=1, norm_cfg=norm_cfg)
        self.refine = nn.ModuleList(conv(first) for _ in range(num_levels))
        tower = [conv(hidden) for _ in range(num_convs)]
        self.tower = nn.Sequential(*tower, nn.Conv2d(hidden, last, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """``(B, channels[0], H_i, W_i)``, the finest first, to ``(B, channels[2], H_0, W_0)``."""
        merged = self.refine[0](features[0])
        height, width = merged.shape[2:]
        for level, conv in enumerate(self.refine[1:], start=1):
            # Crop: sizes of coarser levels are rounded up.
            merged = merged + upsample(conv(features[level]), 2**level)[:, :, :height, :width]
        return self.tower(merged)


class DynamicMaskHead(nn.Module):
    """1 x 1 convolutions with each object's own parameters, over its image's shared feature map.

    The inputs of every layer but the last also have an auxiliary mask output, for training. The
    inputs of the first are relative coordinates x and y, then the shared feature map.
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
        groups = (self.shapes, self.aux_shapes)
        sizes: list[int] = []
        for shapes in groups:
            sizes += [*(o * i for o, i in shapes), *(o for o, _ in shapes)]
        parts = iter(params.split(sizes, dim=1))
        found: list[tuple[Tensor, Tensor]] = []
        for shapes in groups:
            weights = [next(parts).unflatten(1, shape) for shape in shapes]
            found += [(weight, next(parts)[:, :, None]) for weight in weights]
        return found

    def forward(
        self, shared: Tensor, instances: MaskInstances, stride: int, enabled: Sequence[bool]
    ) -> list[Tensor]:
        """Logits ``(n, 1, H, W)`` of every enabled output; the last output is the mask.

        Args:
            shared: ``(B, C, H, W)`` feature maps of the images.
            instances: n objects.
            stride: pixels between their points.
            enabled: for each output, whether to compute it.
        """
        height, width = shared.shape[2:]
        layers = self.layers(instances.params)
        main, aux = layers[: len(self.shapes)], layers[len(self.shapes) :]
        coords = self._relative_coords(instances, (height, width), stride)
        x = torch.cat([coords, shared[instances.images]], 1)
        x, outputs = x.flatten(2), []
        for index, (weight, bias) in enumerate(main):
            last = index == len(main) - 1
            if enabled[index] and not last:
                aux_weight, aux_bias = aux[index]
                outputs.append(aux_weight @ x + aux_bias)
            x = weight @ x + bias
            x = x if last else x.relu()
        return [out.unflatten(2, (height, width)) for out in [*outputs, x]]

    def _relative_coords(
        self, instances: MaskInstances, size: tuple[int, int], stride: int
    ) -> Tensor:
        """``(n, 2, H, W)``: from every point to the object, in sizes of its level's objects."""
        device = instances.locations.device
        y, x = (torch.arange(n, device=device) * stride + stride // 2 for n in size)
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"))
        scale = self.sizes_of_interest[instances.levels][:, None, None, None]
        return (instances.locations[:, :, None, None] - points) / scale


@MODELS.register_module()
class ConditionalMaskHead(BaseModule):
    """Mask head of Mask RepPointsV2: a shared feature map and a dynamic mask head per object.

    Args:
        in_channels: channels of the feature pyramid.
        channels: channels of the convolutions before the shared feature map.
        num_convs: number of these convolutions.
        mask_channels: channels of the shared feature map and of the dynamic mask heads.
        num_layers: layers of a dynamic mask head.
        num_levels: pyramid levels that the shared feature map is computed from.
        feat_stride: pixels between the points of the shared feature map.
        out_stride: pixels between the points of the masks.
        sizes_of_interest: size in pixels of the objects of each level.
        max_instances: objects of a batch to train on; if there are more, a random sample.
        loss_weights: of each layer's output; an output of weight 0 is not computed.
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
        self.feat_stride, self.out_stride = feat_stride, out_stride
        self.max_instances = max_instances
        self.loss_weights = tuple(loss_weights)
        branch_channels = (in_channels, channels, mask_channels)
        self.branch = MaskBranch(branch_channels, num_levels, num_convs, norm_cfg or {"type": "BN"})
        self.head = DynamicMaskHead(mask_channels, mask_channels, num_layers, sizes_of_interest)
        self.num_params = self.head.num_params

    def loss(
        self, features: Sequence[Tensor], instances: MaskInstances, masks: Tensor, objects: Tensor
    ) -> dict[str, Tensor]:
        """Dice losses of predictions against the masks of their objects.

        Args:
            features: feature pyramid of the batch.
            instances: n predictions.
            masks: ``(K, H, W)`` of zeros and ones, of all objects, at the size of the padded
                images.
            objects: ``(n,)`` index of each prediction's object.
        """
        shared = self.branch(features)
        weights = {f"loss_mask_{i}": w for i, w in enumerate(self.loss_weights) if w > 0}
        if not len(instances.params):  # zero gradients, for DistributedDataParallel
            zero = shared.sum() * 0 + sum(part.sum() * 0 for part in instances[:2])
            return dict.fromkeys(weights, zero)
        if len(instances.params) > self.max_instances:
            chosen = torch.randperm(len(objects), device=objects.device)[: self.max_instances]
            instances = MaskInstances(*(part[chosen] for part in instances))
            objects = objects[chosen]
        middle = slice(self.out_stride // 2, None, self.out_stride)
        targets = masks[:, middle, middle][objects]
        scores = self._scores(shared, instances, [weight > 0 for weight in self.loss_weights])
        return {
            name: weight * dice_loss(score, targets).mean()
            for (name, weight), score in zip(weights.items(), scores, strict=True)
        }

    @torch.no_grad()
    def predict(
        self,
        features: Sequence[Tensor],
        instances: MaskInstances,
        image_size: tuple[int, int],
        out_size: tuple[int, int],
        threshold: float,
    ) -> Tensor:
        """Masks ``(n, *out_size)`` of zeros and ones (bool) of the objects of one image.

        Args:
            features: feature pyramid of the image, ``(1, C, H_i, W_i)``.
            instances: its n objects.
            image_size: height and width in pixels, without padding.
            out_size: height and width that the masks are resized to.
            threshold: a pixel of a higher probability belongs to the object.
        """
        if not len(instances.params):
            return instances.params.new_zeros(0, *out_size, dtype=torch.bool)
        scores = self.probabilities(features, instances)
        masks = []
        for part in scores.float()[:, None].split(16):  # full-size masks of floats are large
            part = upsample(part, self.out_stride)[:, :, : image_size[0], : image_size[1]]
            part = F.interpolate(part, size=out_size, mode="bilinear", align_corners=False)
            masks.append(part[:, 0] > threshold)
        return torch.cat(masks)

    def probabilities(self, features: Sequence[Tensor], instances: MaskInstances) -> Tensor:
        """Of the masks of n objects, given a batch's features: ``(n, H, W)`` at ``out_stride``."""
        only_last = [False] * (len(self.loss_weights) - 1) + [True]
        (scores,) = self._scores(self.branch(features), instances, only_last)
        return scores

    def _scores(
        self, shared: Tensor, instances: MaskInstances, enabled: Sequence[bool]
    ) -> list[Tensor]:
        """Probabilities ``(n, H, W)`` at ``out_stride`` of every enabled output."""
        logits = self.head(shared, instances, self.feat_stride, enabled)
        factor = self.feat_stride // self.out_stride
        return [upsample(x, factor).sigmoid()[:, 0] for x in logits]
