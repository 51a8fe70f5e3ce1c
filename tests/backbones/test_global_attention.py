"""The global attention block of HTC++ after the last stage, which is off by default."""

import copy

import pytest
import torch
from torch import Tensor

from swin_dense import SwinTransformer
from swin_dense.backbones.layers import GlobalAttention
from swin_dense.checkpoints import load_backbone
from swin_dense.ops.dispatch import AttnImpl

SMALL = {"embed_dims": 8, "depths": (1, 1, 1, 2), "num_heads": (1, 2, 2, 4), "window_size": 3}
BLOCK = "stages.3.global_block."


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def backbone(**options) -> SwinTransformer:
    model = SwinTransformer(**SMALL, drop_path_rate=0.0, **{"global_attention": True, **options})
    model.init_weights()
    return model


def plain_block(state: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """A pre-norm Transformer block on ``(B, N, C)``, written out token by token."""

    def linear(name: str, t: Tensor) -> Tensor:
        return t @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, t: Tensor) -> Tensor:
        centred = t - t.mean(-1, keepdim=True)
        std = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / std * state[f"{name}.weight"] + state[f"{name}.bias"]

    channels = x.shape[-1]
    width = channels // heads
    q, k, v = linear("attn.w_msa.qkv", norm("norm1", x)).split(channels, -1)
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = (q[..., part] @ k[..., part].mT / width**0.5).softmax(-1)
        mixed.append(weights @ v[..., part])
    x = x + linear("attn.w_msa.proj", torch.cat(mixed, -1))
    hidden = linear("ffn.layers.0.0", norm("norm2", x))
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2  # GELU
    return x + linear("ffn.layers.1", hidden)


@pytest.mark.parametrize("attn_impl", ["auto", "reference"])
def test_block_and_gradients_equal_a_plain_block_in_float64(attn_impl):
    block = backbone(attn_impl=attn_impl).stages[3].global_block.double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # zero biases would hide errors
    state = {key: p.detach().clone().requires_grad_() for key, p in block.named_parameters()}
    x = torch.randn(2, 4, 5, 64, dtype=torch.float64, requires_grad=True)
    x_plain = x.detach().clone().requires_grad_()
    out = block(x)
    out_plain = plain_block(state, x_plain.flatten(1, 2), heads=4).view_as(out)
    # Rounding of float64 over sums of at most 256 terms.
    torch.testing.assert_close(out, out_plain, rtol=0, atol=1e-10)
    direction = torch.randn_like(out)
    out.backward(direction)
    out_plain.backward(direction)
    torch.testing.assert_close(x.grad, x_plain.grad, rtol=0, atol=1e-9)
    for key, parameter in block.named_parameters():
        torch.testing.assert_close(parameter.grad, state[key].grad, rtol=0, atol=1e-9)


def test_every_token_attends_to_every_other():
    attention = GlobalAttention(
        8,
        2,
        qkv_bias=True,
        scale=0.5,
        attn_drop_rate=0.0,
        drop_rate=0.0,
        attn_impl=AttnImpl("auto"),
    )
    x = torch.randn(1, 20, 30, 8, requires_grad=True)
    attention(x)[0, 0, 0].sum().backward()
    assert x.grad.abs().sum(-1).min() > 0


def test_block_runs_between_the_last_stage_and_its_norm():
    with_block = backbone().eval()
    without = backbone(global_attention=False).eval()
    state = with_block.state_dict()
    without.load_state_dict({key: v for key, v in state.items() if not key.startswith(BLOCK)})
    image = torch.randn(1, 3, 70, 90)
    stages: list[Tensor] = []
    without.stages[3].register_forward_hook(lambda _m, _i, out: stages.append(out[0]))
    maps, plain = with_block(image), without(image)
    for ours, theirs in zip(maps[:3], plain[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    expected = with_block.norm3(with_block.stages[3].global_block(stages[0]))
    torch.testing.assert_close(maps[3], expected.permute(0, 3, 1, 2), rtol=0, atol=0)
    assert maps[3].shape == plain[3].shape == (1, 64, 3, 3)


def test_off_by_default():
    assert not any("global" in key for key in SwinTransformer(**SMALL).state_dict())


def test_parameter_count():
    """12 C^2 weights; biases and norms add 13 C."""
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in SwinTransformer(arch="base", global_attention=on).parameters())
            for on in (True, False)
        ]
    assert sizes[0] - sizes[1] == 12 * 1024**2 + 13 * 1024


def test_checkpointing_gives_the_same_gradients():
    plain, recomputing = backbone(), backbone(with_cp=True)
    recomputing.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    for model in (plain, recomputing):
        model.train()(image)[3].sum().backward()
    gradients = [
        model.stages[3].global_block.attn["w_msa"].qkv.weight.grad for model in (plain, recomputing)
    ]
    torch.testing.assert_close(*gradients)


def test_drop_path_rate_equals_that_of_the_last_block():
    model = SwinTransformer(**SMALL, drop_path_rate=0.4, global_attention=True)
    stage = model.stages[3]
    assert stage.global_block.drop_path.drop_prob == stage.blocks[-1].drop_path.drop_prob > 0.39


def test_frozen_with_its_stage():
    assert not any(p.requires_grad for p in backbone(frozen_stages=4).stages[3].parameters())
    assert all(p.requires_grad for p in backbone(frozen_stages=3).stages[3].parameters())


def test_requires_the_last_stage_as_output():
    with pytest.raises(ValueError, match=r"out_indices needs 3, got \(0, 1\)"):
        SwinTransformer(**SMALL, out_indices=(0, 1), global_attention=True)


def test_classifier_checkpoint_loads_without_the_block():
    """In Swin-B the block is an eighth of the parameters, more than may be missing otherwise."""
    classifier = {
        f"backbone.{key}": torch.ones_like(value)
        for key, value in SwinTransformer(**SMALL).state_dict().items()
    }
    model = backbone()
    before = copy.deepcopy(model.stages[3].global_block.state_dict())
    report = load_backbone(model, classifier, "classifier.pth")
    assert report.missing == [key for key, _ in model.named_parameters() if BLOCK in key]
    assert "missing (12): stages.3.global_block.norm1.weight" in str(report)
    assert report.unexpected == []
    assert (model.stages[0].blocks[0].norm1.bias == 1).all()
    after = model.stages[3].global_block.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_block_is_initialised_like_the_others(tmp_path):
    path = tmp_path / "classifier.pth"
    torch.save(SwinTransformer(**SMALL).state_dict(), path)
    torch.manual_seed(1)
    model = backbone(init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    attention = model.stages[3].global_block.attn["w_msa"]
    assert (attention.qkv.bias == 0).all()
    assert attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)  # of 12288 numbers
