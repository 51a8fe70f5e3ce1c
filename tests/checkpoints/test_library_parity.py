"""Unconverted weights of timm, transformers and torchvision give the same feature maps.

At 448 x 448 with windows of 7 no feature map is padded, so no library reduces its window size.
"""

import pytest
import torch
from torch import nn

from swin_dense import SwinTransformer

DEPTHS, HEADS, CHANNELS = (2, 1, 2, 2), (1, 2, 2, 4), 8
# Both sides compute in float32 and differ in the order of sums; feature maps are of order 1.
TOLERANCE = 1e-4


def randomised(model: nn.Module) -> nn.Module:
    """The model with every parameter random, also those that start as zeros and ones."""
    for name, parameter in model.named_parameters():
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        nn.init.normal_(parameter, mean=1.0 if is_norm else 0.0, std=0.2)
    return model.eval()


def ours(state: dict, window: int, **kwargs) -> SwinTransformer:
    """Our backbone with these weights; missing output norms are replaced by identities."""
    model = SwinTransformer(
        embed_dims=CHANNELS, depths=DEPTHS, num_heads=HEADS, window_size=window, **kwargs
    )
    missing = model.load_state_dict(state, strict=False).missing_keys
    expected = {f"norm{i}.{n}" for i in range(4) for n in ("weight", "bias")}
    assert set(missing) in (expected, set())
    if missing:
        for i in range(4):
            setattr(model, f"norm{i}", nn.Identity())
    return model.eval()


def assert_same_maps(maps, reference) -> None:
    assert len(maps) == len(reference) == 4
    for a, b in zip(maps, reference, strict=True):
        assert 0.5 < b.std() < 50  # not trivially equal
        torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@pytest.fixture
def image():
    return torch.randn(1, 3, 448, 448)


# Feature maps of the second have sides 64, 32, 16 and 8.
@pytest.mark.parametrize(("window", "size"), [(7, 448), (4, 256)])
@pytest.mark.parametrize("features_only", [True, False])
@torch.no_grad()
def test_timm(image, window, size, features_only):
    timm = pytest.importorskip("timm")
    image = image[..., :size, :size]
    theirs = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=size,
        window_size=window,
        embed_dim=CHANNELS,
        depths=DEPTHS,
        num_heads=HEADS,
        features_only=features_only,
    )
    randomised(theirs)
    maps = theirs(image) if features_only else theirs.forward_intermediates(image)[1]
    if features_only:
        maps = [x.permute(0, 3, 1, 2) for x in maps]
    assert_same_maps(ours(theirs.state_dict(), window)(image), maps)


@pytest.mark.parametrize("position", [False, True])
@torch.no_grad()
def test_transformers(image, position):
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=448,
        embed_dim=CHANNELS,
        depths=DEPTHS,
        num_heads=HEADS,
        window_size=7,
        use_absolute_embeddings=position,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    backbone = randomised(transformers.SwinBackbone(config))
    model = ours(backbone.state_dict(), 7, use_abs_pos_embed=position, pretrain_img_size=448)
    if not position:
        assert_same_maps(model(image), backbone(image).feature_maps)
        return
    # Until 5.8 its own forward fails with an embedding, which has an entry for a class token.
    embedding = next(p for n, p in backbone.named_parameters() if "position_embeddings" in n)
    found = model.absolute_pos_embed
    assert torch.equal(found, embedding[:, -found.shape[1] :])


def segmentor(transformers, kind, config):
    """A small model with a Swin backbone, and that backbone."""
    small = {"backbone_config": config}
    if kind == "MaskFormer":
        layers = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
        heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
        small["decoder_config"] = transformers.DetrConfig(d_model=8, **layers, **heads)
        small |= {"fpn_feature_size": 32, "mask_feature_size": 32}
        model = transformers.MaskFormerForInstanceSegmentation(
            transformers.MaskFormerConfig(**small)
        )
        return model, model.model.pixel_level_module.encoder
    if kind == "Mask2Former":
        small |= dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32)
        small |= {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2}
        model = transformers.Mask2FormerForUniversalSegmentation(
            transformers.Mask2FormerConfig(**small)
        )
        return model, model.model.pixel_level_module.encoder
    small |= {"hidden_size": 8, "auxiliary_in_channels": CHANNELS * 4}
    model = transformers.UperNetForSemanticSegmentation(transformers.UperNetConfig(**small))
    return model, model.backbone


@pytest.mark.parametrize("kind", ["MaskFormer", "Mask2Former", "UperNet"])
@torch.no_grad()
def test_backbones_inside_models_of_transformers(image, kind):
    """Three prefixes of a backbone, and MaskFormer's names of output norms."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        embed_dim=CHANNELS,
        depths=DEPTHS,
        num_heads=HEADS,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    whole, backbone = segmentor(transformers, kind, config)
    randomised(whole)
    assert_same_maps(ours(whole.state_dict(), 7)(image), backbone(image).feature_maps)


@torch.no_grad()
def test_torchvision(image):
    from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

    theirs = randomised(
        TorchvisionSwin([4, 4], CHANNELS, list(DEPTHS), list(HEADS), [7, 7], num_classes=3)
    )
    maps, x = [], image
    for i, part in enumerate(theirs.features):
        x = part(x)
        if i % 2:
            maps.append(x.permute(0, 3, 1, 2))
    assert_same_maps(ours(theirs.state_dict(), 7)(image), maps)
