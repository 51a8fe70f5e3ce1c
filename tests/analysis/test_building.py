"""Random input for models."""

import pytest
import torch
from mmengine.config import Config

from swin_dense.analysis.building import random_batch


@pytest.mark.parametrize("size", [(64, 96), (128, 128), (800, 1344)], ids=str)
def test_random_objects_are_not_tiny(size):
    """Of tiny boxes rounding decides to which prediction they are matched."""
    batch = random_batch(Config({"default_scope": "mmdet", "model": {}}), size, images=2)
    assert [image.shape for image in batch["inputs"]] == [(3, *size)] * 2
    for sample in batch["data_samples"]:
        objects = sample.gt_instances
        sides = objects.bboxes[:, 2:] - objects.bboxes[:, :2]
        limits = torch.tensor([size[1], size[0]])
        assert (sides >= 0.1 * limits - 1).all()
        assert (objects.bboxes[:, 2:] <= limits).all()
        assert all(mask.any() for mask in objects.masks.masks)
