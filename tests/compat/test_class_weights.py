"""mmseg's cross entropy with class weights takes pixels that are ignored."""

import pytest
import torch
from mmseg.models.losses import CrossEntropyLoss
from torch.nn import functional as F

WEIGHTS = [0.2, 1.0, 3.0]


@pytest.mark.parametrize("avg_non_ignore", [False, True])
@pytest.mark.parametrize("ignored", [0, 7, 24])
def test_mean_of_weighted_pixels(ignored, avg_non_ignore):
    scores = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 3, 4))
    labels.view(-1)[:ignored] = 255
    loss = CrossEntropyLoss(class_weight=WEIGHTS, avg_non_ignore=avg_non_ignore)
    found = loss(scores, labels, ignore_index=255)
    if ignored == 24:
        expected = 0 * scores.sum()
    else:
        weight = scores.new_tensor(WEIGHTS)
        expected = F.cross_entropy(scores, labels, weight, ignore_index=255)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # mmseg adds float32's epsilon
    (gradient,) = torch.autograd.grad(found, scores)
    assert gradient.isfinite().all()
