"""DeiT with its feature pyramid: parity with timm, shapes, arguments, freezing, loading."""

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from swin_dense import DeiT
from swin_dense.errors import UserError

SMALL = {"embed_dims": 12, "depth": 3, "num_heads": 3, "pretrain_img_size": 64}


def timm_model(**kwargs):
    sizes = {"embed_dim": 384, "depth": 12, "num_heads": 6, **kwargs}
    model = VisionTransformer(patch_size=16, num_classes=0, global_pool="", **sizes)
    for parameter in model.parameters():  # zero biases and embeddings would hide errors
        nn.init.normal_(parameter, std=0.02)
    return model.eval()


def small_timm():
    return timm_model(embed_dim=12, depth=3, num_heads=3, img_size=64)


def gradients_of(model, maps):
    model.zero_grad()
    (maps * torch.linspace(-1, 1, maps.numel()).view_as(maps)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("final_norm", [True, False], ids=["after the norm", "before the norm"])
def test_tokens_and_gradients_equal_timm(final_norm):
    theirs, ours = timm_model(), DeiT(drop_path_rate=0.0).eval()
    report = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert all(key.startswith("pyramid.") for key in report.missing_keys)
    if not final_norm:
        theirs.norm = ours.norm = nn.Identity()
    x = torch.randn(1, 3, 224, 224)
    expected = theirs.forward_features(x)[:, 1:].transpose(1, 2).reshape(1, 384, 14, 14)
    # Both run the same operations in float32, twelve blocks deep.
    torch.testing.assert_close(ours.tokens(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(x)[2], expected, rtol=1e-4, atol=1e-5)
    expected_gradients = gradients_of(theirs, expected)
    grads = gradients_of(ours, ours.tokens(x))
    assert grads.keys() == expected_gradients.keys()
    for key, gradient in expected_gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(grads[key], gradient, rtol=1e-3, atol=1e-5 * max(scale, 1))


@pytest.mark.parametrize("size", [(1, 1), (5, 130), (64, 33)])
def test_feature_map_shapes(size):
    maps = DeiT(**SMALL).eval()(torch.zeros(2, 3, *size))
    assert isinstance(maps, tuple)
    expected = [(2, 12, *(-(-side // stride) for side in size)) for stride in (4, 8, 16, 32)]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(m.is_contiguous() for m in maps)


def test_initial_pyramid_repeats_and_pools_the_tokens():
    model = DeiT(**SMALL).eval()
    model.pyramid["0"].act = nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    tokens = model.tokens(x)
    fine, middle, same, coarse = model(x)
    for levels, m in ((4, fine), (2, middle)):
        repeated = tokens.repeat_interleave(levels, 2).repeat_interleave(levels, 3)
        torch.testing.assert_close(m, repeated, rtol=1e-4, atol=1e-5)  # BatchNorm has an epsilon
    assert torch.equal(same, tokens)
    assert torch.equal(coarse, tokens.unflatten(3, (2, 2)).unflatten(2, (2, 2)).amax((3, 5)))


def test_attention_is_global():
    model = DeiT(**SMALL).eval()
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    model.tokens(x)[0, 0, 0, 0].backward()
    assert (x.grad[0, :, 48:, 48:] != 0).all()


def test_position_embedding_is_interpolated():
    model = DeiT(**SMALL).eval()
    nn.init.normal_(model.pos_embed)
    flat = torch.zeros(1, 3, 64, 128)  # its tokens differ by position only
    tokens = model.tokens(flat)
    assert tokens.std(dim=(2, 3)).min() > 0
    model.pos_embed.data[:, 1:] = model.pos_embed.data[:, 1:2]
    assert model.tokens(flat).std(dim=(2, 3)).max() < 1e-5


def test_parameter_count():
    """22.05 M in DeiT's paper, minus the classifier (384 x 1000 + 1000)."""
    model = DeiT()
    pyramid = sum(p.numel() for p in model.pyramid.parameters())
    assert sum(p.numel() for p in model.parameters()) - pyramid == 22_050_664 - 385_000
    # Two depthwise 2 x 2 deconvolutions and a norm for stride 4, another for stride 8.
    assert pyramid == 3 * 384 * 4 + 2 * 384


def test_every_parameter_gets_the_same_gradient_with_checkpointing():
    model = DeiT(**SMALL, drop_path_rate=0.0)
    again = DeiT(**SMALL, drop_path_rate=0.0, with_cp=True)
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 40, 40)
    gradients = []
    for m in (model, again):
        sum(level.square().mean() for level in m(x)).backward()
        gradients.append({name: p.grad for name, p in m.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("stages", [-1, 0, 2])
def test_frozen_stages(stages):
    model = DeiT(**SMALL, frozen_stages=stages)
    for trained in (model, model.eval(), model.train()):
        assert trained is model
        names = {name for name, p in trained.named_parameters() if not p.requires_grad}
        frozen = {".".join(n.split(".")[: 1 + n.startswith("blocks")]) for n in names}
        expected = {f"blocks.{i}" for i in range(stages)}
        if stages >= 0:
            expected |= {"patch_embed", "cls_token", "pos_embed"}
        assert frozen == expected
    assert [block.training for block in model.blocks] == [i >= stages for i in range(3)]


@pytest.mark.parametrize("extra_tokens", [1, 2], ids=["plain", "distilled"])
def test_official_weights_of_another_size_load_with_a_report(extra_tokens, tmp_path, caplog):
    weights = small_timm().state_dict()
    positions = weights["pos_embed"]
    weights["pos_embed"] = torch.cat((positions[:, :1],) * extra_tokens + (positions[:, 1:],), 1)
    weights |= {"head.weight": torch.zeros(5, 12), "head.bias": torch.zeros(5)}
    path = tmp_path / "deit.pth"
    torch.save({"model": weights}, path)
    init = {"type": "Pretrained", "checkpoint": str(path)}
    same = DeiT(**SMALL, init_cfg=init)
    same.init_weights()
    torch.testing.assert_close(same.pos_embed.data, positions)
    torch.testing.assert_close(same.blocks[2].mlp.fc2.bias.data, weights["blocks.2.mlp.fc2.bias"])
    larger = DeiT(**{**SMALL, "pretrain_img_size": (96, 128)}, init_cfg=init)
    larger.init_weights()
    assert larger.pos_embed.shape == (1, 1 + 6 * 8, 12)
    torch.testing.assert_close(larger.pos_embed.data[:, :1], positions[:, :1])
    x = torch.randn(1, 3, 96, 128)  # interpolating at loading or in forward gives the same
    torch.testing.assert_close(larger.eval().tokens(x), same.eval().tokens(x))


def test_weights_of_another_model_raise(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    model = DeiT(**SMALL, init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    with pytest.raises(UserError, match=r"(\d+) of \1 parameters missing"):
        model.init_weights()


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"num_heads must divide embed_dims=384, got 7", {"num_heads": 7}),
        (r"out_indices must lie in 0..3, got \(4,\)", {"out_indices": (4,)}),
        (r"frozen_stages must lie in -1..12, got 13", {"frozen_stages": 13}),
        (r"init_cfg must be dict\(type='Pretrained'", {"init_cfg": {"type": "TruncNormal"}}),
    ],
)
def test_invalid_arguments_raise(message, arguments):
    with pytest.raises(ValueError, match=message):
        DeiT(**arguments)


def test_is_registered():
    model = MMDET_MODELS.build({"type": "swin_dense.DeiT", **SMALL, "out_indices": (1, 2, 3)})
    assert [m.shape[2] for m in model(torch.zeros(2, 3, 64, 64))] == [8, 4, 2]
