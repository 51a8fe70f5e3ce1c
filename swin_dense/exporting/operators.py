"""Layers that export for images of any size, in the place of some that would not."""

from typing import Any

import torch
from torch import Tensor, nn


class AdaptiveAvgPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` for ``(B, C, H, W)``, equal up to rounding: a matrix product.

    PyTorch's own asks whether the size of the map is a multiple of the result's, which makes the
    graph one for the size that it was traced with.

    Args:
        rows, columns: of the result.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, rows, columns)``."""
        height, width = x.shape[2:]
        down = _averages(height, self.rows, x)
        across = _averages(width, self.columns, x)
        return torch.matmul(torch.matmul(down, x), across.t())


def _averages(size: int, parts: int, like: Tensor) -> Tensor:
    """Weights of the entries in each of the parts, ``(parts, size)``; parts may overlap."""
    part = torch.arange(parts, device=like.device)[:, None]
    start, end = part * size // parts, ((part + 1) * size + parts - 1) // parts
    at = torch.arange(size, device=like.device)
    return ((at >= start) & (at < end)).to(like.dtype) / (end - start)


class RoIExtractor(nn.Module):
    """mmdet's ``SingleRoIExtractor``: each region from the feature map of its size.

    mmdet's picks the regions of each map, whose number depends on the data. Here each map gives
    all of them; those that are another map's are reduced to a point first, which costs little.
    """

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor
        self.num_inputs = extractor.num_inputs

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Maps ``(B, C, H_i, W_i)`` and regions ``(n, 5)`` to ``(n, C, height, width)``."""
        from torchvision.ops import roi_align

        level = self.extractor.map_roi_levels(rois, len(feats))[:, None]
        found: Any = 0
        for i, (x, layer) in enumerate(zip(feats, self.extractor.roi_layers, strict=True)):
            own = torch.cat([rois[:, :1], torch.where(level == i, rois[:, 1:], 0.0)], dim=1)
            pooled = roi_align(
                x, own, layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
            )
            found = found + torch.where((level == i)[:, :, None, None], pooled, 0.0)
        return found


class StridedMaxPool(nn.Module):
    """``nn.MaxPool2d`` of a stride, which asks whether sizes are multiples of it: of stride one, of
    whose pixels every so many are taken.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.stride = pool.stride
        self.pool = nn.MaxPool2d(pool.kernel_size, 1, pool.padding, pool.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the pooled map, equal bit for bit."""
        stride = self.stride
        rows, columns = stride if isinstance(stride, tuple) else (stride, stride)
        return self.pool(x)[:, :, ::rows, ::columns]


class Pyramid(nn.Module):
    """mmdet's ``FPN`` whose coarsest maps are every other pixel of the one before.

    mmdet takes them by ``max_pool2d`` of one pixel, which asks whether a size is even.
    """

    def __init__(self, fpn: Any) -> None:
        super().__init__()
        self.fpn = fpn
        self.more = fpn.num_outs - len(fpn.lateral_convs)
        fpn.num_outs -= self.more

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The backbone's maps to ``num_outs`` of them."""
        maps = list(self.fpn(inputs))
        for _ in range(self.more):
            maps.append(maps[-1][:, :, ::2, ::2])
        return tuple(maps)


def corner_pool(x: Tensor, dim: int, top_left: bool) -> Tensor:
    """RepPoints V2's ``corner_pool`` without ``cummax``, which ONNX lacks; up to 1024 positions.

    The maximum of 2, 4, 8, ... neighbours, until these are all.
    """
    size = x.shape[dim]
    shape = list(x.shape)
    for step in (2**i for i in range(10)):
        shape[dim] = step
        outside = x.new_full(shape, -torch.inf)
        parts, start = ([x, outside], step) if top_left else ([outside, x], 0)
        x = torch.maximum(x, torch.cat(parts, dim).narrow(dim, start, size))
    return x


def make_exportable(module: nn.Module) -> None:
    """Replaces, within a module, what exports for one size only, or not at all."""
    child: Any
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            size: Any = child.output_size
            rows, columns = (size, size) if isinstance(size, int) else size
            if rows and columns:
                setattr(module, name, AdaptiveAvgPool(rows, columns))
        elif isinstance(child, nn.MaxPool2d) and not child.ceil_mode:
            setattr(module, name, StridedMaxPool(child))
        elif type(child).__name__ == "FPN" and not child.add_extra_convs:
            setattr(module, name, Pyramid(child))
        elif hasattr(child, "map_roi_levels"):
            setattr(module, name, RoIExtractor(child))
        elif hasattr(child, "corner_pool"):
            child.corner_pool = corner_pool
        else:
            make_exportable(child)
