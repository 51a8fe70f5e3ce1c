"""The mask head against grouped convolutions and plain formulas."""

import pytest
import torch
from torch.nn import functional as F

from swin_dense.models.heads.conditional_mask_head import (
    ConditionalMaskHead,
    DynamicMaskHead,
    MaskInstances,
    dice_loss,
    upsample,
)


def head(**options) -> ConditionalMaskHead:
    return ConditionalMaskHead(in_channels=8, channels=8, num_convs=1, **options)


def pyramid(batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, 8, 6, 8), torch.randn(batch, 8, 3, 4), torch.randn(batch, 8, 2, 2)]


def random_instances(num_params: int, images: list[int]) -> MaskInstances:
    n = len(images)
    return MaskInstances(
        torch.randn(n, num_params, requires_grad=True),
        torch.rand(n, 2) * 40,
        torch.arange(n) % 5,
        torch.tensor(images, dtype=torch.long),
    )


def test_parameter_count_equals_the_released_weights():
    """169 of CondInst's mask head and 20 of the two auxiliary outputs."""
    mask_head = DynamicMaskHead(8, 8, 3, (64, 128, 256, 512, 1024))
    assert mask_head.num_params == 169 + 20
    assert mask_head.sizes_of_interest.dtype == torch.int64


def test_dynamic_mask_heads_equal_grouped_convolutions():
    mask_head = DynamicMaskHead(8, 8, 3, (64, 128, 256, 512, 1024))
    instances = random_instances(mask_head.num_params, [1, 0, 1])
    shared = torch.randn(2, 8, 6, 7)
    found = mask_head(shared, instances, stride=8, enabled=[True, True, True])

    columns, rows = torch.meshgrid(torch.arange(7) * 8 + 4, torch.arange(6) * 8 + 4, indexing="xy")
    for i in range(3):
        x, y = instances.locations[i]
        size = [64, 128, 256][i]
        coords = torch.stack([(x - columns) / size, (y - rows) / size])
        features = torch.cat([coords, shared[instances.images[i]]])[None]
        params = instances.params[i]
        sizes = [80, 64, 8, 8, 8, 1, 10, 8, 1, 1]  # weights and biases, then those of the outputs
        w0, w1, w2, b0, b1, b2, a0, a1, c0, c1 = params.split(sizes)
        hidden = F.conv2d(features, w0.view(8, 10, 1, 1), b0).relu()
        deeper = F.conv2d(hidden, w1.view(8, 8, 1, 1), b1).relu()
        expected = [
            F.conv2d(features, a0.view(1, 10, 1, 1), c0),
            F.conv2d(hidden, a1.view(1, 8, 1, 1), c1),
            F.conv2d(deeper, w2.view(1, 8, 1, 1), b2),
        ]
        for output, one in zip(found, expected, strict=True):
            torch.testing.assert_close(output[i], one[0])


def test_disabled_outputs_are_not_computed():
    mask_head = DynamicMaskHead(8, 8, 3, (64, 128, 256, 512, 1024))
    instances = random_instances(mask_head.num_params, [0])
    shared = torch.randn(1, 8, 6, 7)
    last, middle = [False, False, True], [False, True, True]
    assert len(mask_head(shared, instances, 8, last)) == 1
    assert torch.equal(
        mask_head(shared, instances, 8, middle)[-1], mask_head(shared, instances, 8, last)[0]
    )


def test_dice_loss():
    scores = torch.tensor([[[0.5, 1.0]], [[0.0, 0.0]], [[1.0, 0.0]]])
    target = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]], [[1.0, 0.0]]])
    expected = [1 - 2 * 1.5 / (1.25 + 2), 1, 0]
    torch.testing.assert_close(dice_loss(scores, target), torch.tensor(expected), atol=1e-4, rtol=0)


def test_loss_compares_each_object_with_its_mask():
    """The loss is smaller for the predicted masks themselves than for their inverse."""
    module = head().train()
    instances = random_instances(module.num_params, [0, 1])
    shared = module.branch(pyramid())
    masks = torch.zeros(2, 48, 64, dtype=torch.uint8)
    features = pyramid()
    torch.manual_seed(1)
    shared = module.branch(features)
    (logits,) = module.head(shared, instances, 8, [False, False, True])
    masks = (upsample(logits, 8)[:, 0] > 0).to(torch.uint8)
    right = module.loss(features, instances, masks, torch.tensor([0, 1]))
    wrong = module.loss(features, instances, 1 - masks, torch.tensor([0, 1]))
    assert set(right) == {"loss_mask_1", "loss_mask_2"}  # the first one's weight is 0
    assert right["loss_mask_2"] < wrong["loss_mask_2"]


def test_every_parameter_gets_a_gradient_with_and_without_objects():
    module = head().train()
    for images in ([0, 1, 1], []):
        instances = random_instances(module.num_params, images)
        masks = torch.ones(2, 48, 64, dtype=torch.uint8)
        objects = torch.zeros(len(images), dtype=torch.long)
        module.zero_grad()
        sum(module.loss(pyramid(), instances, masks, objects).values()).backward()
        assert [name for name, p in module.named_parameters() if p.grad is None] == []
        assert instances.params.grad is not None


def test_maximum_number_of_training_objects():
    module = head(max_instances=2).train()
    instances = random_instances(module.num_params, [0] * 9)
    masks = torch.ones(1, 48, 64, dtype=torch.uint8)
    losses = module.loss(pyramid(), instances, masks, torch.zeros(9, dtype=torch.long))
    losses["loss_mask_2"].backward()
    assert instances.params.grad.abs().sum(1).count_nonzero() == 2


def test_masks_have_the_requested_size():
    module = head().eval()
    features = [x[:1] for x in pyramid()]
    instances = random_instances(module.num_params, [0] * 20)
    masks = module.predict(features, instances, (40, 60), (23, 31), threshold=0.5)
    assert masks.shape == (20, 23, 31)
    assert masks.dtype == torch.bool
    none = random_instances(module.num_params, [])
    assert module.predict(features, none, (40, 60), (23, 31), 0.5).shape == (0, 23, 31)


def test_feature_maps_whose_sizes_were_rounded_up_are_cropped():
    module = head().eval()
    features = [torch.randn(1, 8, 7, 5), torch.randn(1, 8, 4, 3), torch.randn(1, 8, 2, 2)]
    assert module.branch(features).shape == (1, 8, 7, 5)


def test_number_of_loss_weights_is_checked():
    with pytest.raises(ValueError, match="3 layers"):
        head(loss_weights=(1.0,))
