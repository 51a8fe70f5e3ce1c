"""Pooling over regions of interest, as ``mmcv.ops.roi_align`` and ``roi_pool`` call it.

``input`` is (B, C, H, W), ``rois`` (R, 5) as batch index, x1, y1, x2, y2 in image coordinates,
which ``spatial_scale`` converts to those of the feature map; ``output`` is (R, C, PH, PW).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from swin_dense.compat.ops.precision import full_precision

_MAX_MODE = 0  # mmcv's number for pool_mode='max'; 1 is 'avg'


@dataclass(frozen=True)
class _RoIAlign:
    """mmcv's keyword arguments; ``sampling_ratio`` 0 is adaptive.

    Adaptive sampling takes as many samples per bin as the bin has pixels, rounded up.
    """

    aligned_height: int
    aligned_width: int
    spatial_scale: float
    sampling_ratio: int
    pool_mode: int
    aligned: bool

    def sample_grids(self, rois: Tensor) -> list[tuple[Tensor, int, int]]:
        """Regions by their number of samples per bin: indices into ``rois``, rows, columns.

        RoIAlign with one sample per bin, on a grid finer by these numbers, gives the samples
        themselves. Regions without area have none; their output stays zero.
        """
        if self.sampling_ratio > 0:
            indices, ratio = torch.arange(len(rois), device=rois.device), self.sampling_ratio
            return [(indices, ratio, ratio)] if len(rois) else []
        sides = (rois[:, 3:] - rois[:, 1:3]) * self.spatial_scale
        if not self.aligned:
            sides = sides.clamp(min=1)
        grids = (sides / sides.new_tensor([self.aligned_width, self.aligned_height])).ceil().long()
        unique, which, counts = grids.unique(dim=0, return_inverse=True, return_counts=True)
        # The host waits for the device twice, whatever the number of different grids.
        found = torch.cat([unique, counts[:, None]], dim=1).tolist()
        members = which.argsort(stable=True).split([count for *_, count in found])
        return [
            (chosen, rows, columns)
            for chosen, (columns, rows, _) in zip(members, found, strict=True)
            if rows > 0 and columns > 0
        ]


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: Any
) -> None:
    """RoIAlign (He et al. 2017): write the mean, or maximum, of bilinear samples per bin.

    In max mode the argmax buffers, (R, C, PH, PW), receive the row and column of the chosen sample
    in the region's grid of samples. (mmcv stores its coordinates there; both are read by the
    backward pass only. Half precision rounds coordinates, but not small integers.)
    """
    op, align = _RoIAlign(**options), torch.ops.torchvision.roi_align
    features, rois = full_precision(input, rois)
    height, width, scale = op.aligned_height, op.aligned_width, op.spatial_scale
    if op.pool_mode != _MAX_MODE:
        ratio = op.sampling_ratio
        output.copy_(align(features, rois, scale, height, width, ratio, op.aligned))
        return
    for chosen, rows, columns in op.sample_grids(rois):
        grid = (height * rows, width * columns)
        samples = align(features, rois[chosen], scale, *grid, 1, op.aligned)
        best, index = F.max_pool2d(samples, (rows, columns), return_indices=True)
        output[chosen] = best.to(output)
        argmax_y[chosen] = (index // samples.shape[-1]).to(argmax_y)
        argmax_x[chosen] = (index % samples.shape[-1]).to(argmax_x)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    **options: Any,
) -> None:
    """Write the gradient of the input, (B, C, H, W)."""
    op, align_backward = _RoIAlign(**options), torch.ops.torchvision._roi_align_backward
    grad, rois = full_precision(grad_output, rois)
    shape, scale = grad_input.shape, op.spatial_scale
    height, width = op.aligned_height, op.aligned_width
    if op.pool_mode != _MAX_MODE:
        ratio = op.sampling_ratio
        grads = align_backward(grad, rois, scale, height, width, *shape, ratio, op.aligned)
        grad_input.copy_(grads)
        return
    total = grad.new_zeros(shape)
    for chosen, rows, columns in op.sample_grids(rois):
        grid = (height * rows, width * columns)
        index = (argmax_y[chosen].long() * grid[1] + argmax_x[chosen].long()).flatten(2)
        samples = grad.new_zeros(*index.shape[:2], grid[0] * grid[1])
        samples.scatter_(2, index, grad[chosen].flatten(2))
        samples = samples.unflatten(2, grid)
        total += align_backward(samples, rois[chosen], scale, *grid, *shape, 1, op.aligned)
    grad_input.copy_(total)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool as mmcv defines it: write each bin's maximum and its flat position (-1 if empty).

    torchvision's operator differs: it rounds the region to whole pixels first, mmcv rounds the bins
    outwards.
    """
    features, rois = full_precision(input, rois)
    batch = rois[:, 0].long()
    width = input.shape[3]
    rows = _bin_edges(rois[:, 2], rois[:, 4], spatial_scale, pooled_height, input.shape[2])
    columns = _bin_edges(rois[:, 1], rois[:, 3], spatial_scale, pooled_width, width)
    longest = _longest_bins(rows, columns)
    for ph in range(pooled_height):
        y, y_valid = _bin_pixels(*rows, ph, longest[ph])
        for pw in range(pooled_width):
            x, x_valid = _bin_pixels(*columns, pw, longest[pooled_height + pw])
            valid = (y_valid[:, :, None] & x_valid[:, None, :]).flatten(1)
            place = (y[:, :, None] * width + x[:, None, :]).flatten(1)
            if place.shape[1] == 0:
                argmax[:, :, ph, pw] = -1
                continue
            pixels = features.flatten(2)[batch[:, None], :, place].transpose(1, 2)
            best, index = pixels.masked_fill(~valid[:, None], -torch.inf).max(dim=2)
            some = valid.any(dim=1)[:, None]
            output[:, :, ph, pw] = torch.where(some, best, 0.0).to(output)
            chosen = torch.where(some, place.gather(1, index), -1)
            argmax[:, :, ph, pw] = chosen.to(argmax)


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **sizes: Any
) -> None:
    """Write the gradient of the input: every bin's is that of the pixel of its maximum."""
    (grad,) = full_precision(grad_output)
    total = grad.new_zeros(grad_input.shape).flatten(2)
    taken = grad.masked_fill(argmax < 0, 0).flatten(2)
    place = argmax.long().clamp(min=0).flatten(2)
    batch = rois[:, 0].long()[:, None, None].expand_as(place)
    channel = torch.arange(place.shape[1], device=place.device)[None, :, None].expand_as(place)
    total.index_put_((batch, channel, place), taken, accumulate=True)
    grad_input.copy_(total.view(grad_input.shape))


def _bin_edges(
    low: Tensor, high: Tensor, spatial_scale: float, bins: int, size: int
) -> tuple[Tensor, Tensor]:
    """First pixel and the one after the last of every bin along one axis, (R, bins) each."""
    start = low * spatial_scale
    length = (high + 1) * spatial_scale - start
    step = (length / bins)[:, None]
    number = torch.arange(bins, device=low.device)
    first = (number * step + start[:, None]).floor().clamp(0, size).long()
    last = ((number + 1) * step + start[:, None]).ceil().clamp(0, size).long()
    return first, torch.where(length[:, None] > 0, last, first)


def _longest_bins(*axes: tuple[Tensor, Tensor]) -> list[int]:
    """Pixels of the longest region's bin, of every bin of every axis: the host waits once."""
    spans = torch.cat([last - first for first, last in axes], dim=1)
    return spans.amax(0).clamp(min=0).tolist() if len(spans) else [0] * spans.shape[1]


def _bin_pixels(first: Tensor, last: Tensor, number: int, longest: int) -> tuple[Tensor, Tensor]:
    """Pixels of one bin of every region, (R, longest), and which of them are in it."""
    first, last = first[:, number, None], last[:, number, None]
    pixels = first + torch.arange(longest, device=first.device)
    valid = pixels < last
    return torch.where(valid, pixels, 0), valid
