"""Regions are pooled where they are, also under mixed precision."""

import pytest
import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as MMDetSingleRoIExtractor

from swin_dense.models.roi_extractors import SingleRoIExtractor

ARGUMENTS = {
    "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
    "out_channels": 2,
    "featmap_strides": [4, 8, 16, 32],
}
WIDTH, HEIGHT = 1344, 128


def feature_maps(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Maps whose values are the position in the image: x / 64 and y / 64."""
    maps = []
    for stride in ARGUMENTS["featmap_strides"]:
        y = (torch.arange(HEIGHT // stride) + 0.5) * stride / 64
        x = (torch.arange(WIDTH // stride) + 0.5) * stride / 64
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"))
        maps.append(grid[None].to(dtype).requires_grad_())
    return tuple(maps)


def regions() -> torch.Tensor:
    """Of several sizes, many of them near the right end of the image."""
    start = torch.rand(64, 2) * torch.tensor([1200.0, 60.0])
    size = torch.rand(64, 2) * torch.tensor([120.0, 60.0]) + 4
    return torch.cat([torch.zeros(64, 1), start, start + size], dim=1)


def test_float32_is_mmdets_bit_for_bit():
    rois, results = regions(), []
    for kind in (MMDetSingleRoIExtractor, SingleRoIExtractor):
        maps = feature_maps()
        out = kind(**ARGUMENTS)(maps, rois, roi_scale_factor=1.2)
        out.square().sum().backward()
        results.append([out, *(level.grad for level in maps)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_are_not_moved_in_low_precision(dtype):
    """The values pooled are positions. Both pool the same rounded maps: only boxes may differ."""
    rois, maps = regions(), feature_maps(dtype)
    exact = MMDetSingleRoIExtractor(**ARGUMENTS)(tuple(level.float() for level in maps), rois)
    ours = SingleRoIExtractor(**ARGUMENTS)(maps, rois)
    theirs = MMDetSingleRoIExtractor(**ARGUMENTS)(maps, rois)
    assert ours.dtype == theirs.dtype == dtype
    assert torch.equal(ours, exact.to(dtype))
    moved = 64 * (theirs.float() - exact.to(dtype).float())[:, 0].abs().max()  # pixels
    assert moved > (1.0 if dtype is torch.bfloat16 else 0.1)
    ours.float().sum().backward()
    assert all(level.grad is not None and level.grad.dtype == dtype for level in maps)


def test_no_regions():
    assert SingleRoIExtractor(**ARGUMENTS)(feature_maps(), torch.zeros(0, 5)).shape == (0, 2, 7, 7)
