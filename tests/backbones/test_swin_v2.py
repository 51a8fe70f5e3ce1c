"""The Swin V2 backbone apart from parity: shapes, arguments, freezing, precision, cached bias."""

import copy
import logging
import math

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmseg.registry import MODELS as MMSEG_MODELS
from small_swin_v2 import ARCH, assert_agree, outputs_and_gradients, small_model

from swin_dense import SwinTransformerV2
from swin_dense.ops.dispatch import AttnImpl
from swin_dense.ops.window_attention.windows import log_spaced_offsets


@pytest.mark.parametrize("size", [(1, 1), (5, 130), (64, 33)])
def test_feature_map_shapes(size):
    arch = {"embed_dims": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4)}
    model = SwinTransformerV2(arch, window_size=(4, 4, 3, 2), out_indices=(0, 1, 2, 3)).eval()
    maps = model(torch.zeros(2, 3, *size))
    assert isinstance(maps, tuple)
    expected = [
        (2, 8 * 2**i, *(-(-side // stride) for side in size))
        for i, stride in enumerate((4, 8, 16, 32))
    ]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(m.is_contiguous() for m in maps)


@pytest.mark.parametrize("registry", [MMDET_MODELS, MMSEG_MODELS], ids=["mmdet", "mmseg"])
def test_builds_from_a_config_for_mmpretrain(registry):
    """All arguments of mmpretrain's class, with its defaults but for padding."""
    model = registry.build(
        {
            "type": "swin_dense.SwinTransformerV2",
            "arch": ARCH | {"extra_norm_every_n_blocks": 0},
            "img_size": 256,
            "patch_size": 4,
            "in_channels": 3,
            "window_size": [8, 8],
            "drop_rate": 0.0,
            "drop_path_rate": 0.1,
            "out_indices": (1,),
            "use_abs_pos_embed": False,
            "interpolate_mode": "bicubic",
            "with_cp": False,
            "frozen_stages": -1,
            "norm_eval": False,
            "pad_small_map": True,
            "norm_cfg": {"type": "LN"},
            "stage_cfgs": {},
            "patch_cfg": {},
            "pretrained_window_sizes": [0, 0],
            "init_cfg": None,
        }
    )
    assert isinstance(model, SwinTransformerV2)


@pytest.mark.parametrize(
    ("arch", "count"),
    [("t", 27579498), ("small", 48960762), ("Base", 86895608), ("large", 195205620)],
)
def test_parameter_counts(arch, count):
    with torch.device("meta"):
        model = SwinTransformerV2(arch, out_indices=(0, 1, 2, 3))
    assert sum(p.numel() for p in model.parameters()) == count


def test_names_and_their_order_are_those_of_mmpretrain():
    """Read from its source; optimizers know parameters by position."""
    arch = {"embed_dims": 8, "depths": (1, 1), "num_heads": (1, 1), "extra_norm_every_n_blocks": 1}
    attention = [
        *("logit_scale", "q_bias", "v_bias", "cpb_mlp.0.weight", "cpb_mlp.0.bias"),
        *("cpb_mlp.2.weight", "qkv.weight", "proj.weight", "proj.bias"),
    ]
    block = [f"attn.w_msa.{name}" for name in attention]
    block += ["norm1.weight", "norm1.bias", "ffn.layers.0.0.weight", "ffn.layers.0.0.bias"]
    block += ["ffn.layers.1.weight", "ffn.layers.1.bias", "norm2.weight", "norm2.bias"]
    block += ["norm3.weight", "norm3.bias"]
    expected = [f"patch_embed.{layer}.{kind}" for layer in ("projection", "norm")
                for kind in ("weight", "bias")]  # fmt: skip
    expected += [f"stages.0.blocks.0.{name}" for name in block]
    expected += [f"stages.1.downsample.{n}" for n in ("reduction.weight", "norm.weight")]
    expected += ["stages.1.downsample.norm.bias", *(f"stages.1.blocks.0.{name}" for name in block)]
    model = SwinTransformerV2(arch, out_indices=(1,))
    assert [n for n, _ in model.named_parameters()] == [*expected, "norm1.weight", "norm1.bias"]
    buffers = set(model.state_dict()) - {n for n, _ in model.named_parameters()}
    table = "attn.w_msa.relative_coords_table"
    assert buffers == {f"stages.{i}.blocks.0.{table}" for i in (0, 1)}


BAD = {
    r"no argument 'window'.*did you mean 'window_size'": {"window": 7},
    r"arch must be one of tiny, .* got 'gigantic'": {"arch": "gigantic"},
    r"a dict as arch must have the keys embed_dims": {"arch": {"embed_dims": 8}},
    r"window_size needs one entry per stage \(2\), got \(8,\)": {"window_size": (8,)},
    r"window_size must be whole numbers of at least 1, got 0": {"window_size": 0},
    r"pretrained_window_sizes needs one entry per stage": {"pretrained_window_sizes": [8] * 4},
    r"num_heads\[1\] must divide 32, got 3": {"arch": ARCH | {"num_heads": (2, 3)}},
    r"frozen_stages must lie in -1..1, got 2": {"frozen_stages": 2},
    r"stage_cfgs must be empty": {"stage_cfgs": {"block_cfgs": {}}},
    r"patch_cfg must be empty": {"patch_cfg": {"norm_cfg": None}},
    r"interpolate_mode must be 'bicubic'": {"interpolate_mode": "nearest"},
    r"attn_impl must be one of auto": {"attn_impl": "flash"},
}


@pytest.mark.parametrize("message", BAD)
def test_invalid_arguments_raise(message):
    with pytest.raises(ValueError, match=message):
        SwinTransformerV2(**({"arch": ARCH, "out_indices": (0, 1)} | BAD[message]))


def test_maps_are_padded_whatever_the_config_says():
    with pytest.warns(UserWarning, match="pad_small_map=False has no effect"):
        SwinTransformerV2(ARCH, out_indices=(0,), pad_small_map=False)


@pytest.mark.parametrize("stages", [-1, 0, 1])
def test_frozen_stages_are_those_of_mmpretrain(stages):
    model = small_model(frozen_stages=stages).train()
    names = [name for name, p in model.named_parameters() if not p.requires_grad]
    frozen = {".".join(n.split(".")[: 1 + n.startswith("stages")]) for n in names}
    expected = {"patch_embed"} if stages >= 0 else set()
    expected |= {f"{kind}{i}" for i in range(stages + 1) for kind in ("stages.", "norm")}
    assert frozen == expected
    assert [stage.training for stage in model.stages] == [i > stages for i in range(2)]


def test_initialisation_from_scratch():
    """Every block starts as the identity."""
    model = small_model()
    model.init_weights()
    named = dict(model.named_parameters())
    for name, p in named.items():
        if ".blocks." in name and "norm" in name:
            assert not p.any(), name
        elif name.endswith("logit_scale"):
            assert torch.equal(p, torch.full_like(p, math.log(10)))
        elif name.endswith(("q_bias", "v_bias")) or ("norm" not in name and p.ndim == 1):
            assert name.startswith("patch_embed") or not p.any(), name
        elif "projection" not in name and p.ndim == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.15), name
    x = torch.randn(1, 3, 40, 40)
    embedded = model.patch_embed(x)
    torch.testing.assert_close(model.eval()(x)[0], model.norm0(embedded).permute(0, 3, 1, 2))


def test_drop_path_drops_normalised_branches():
    """With both branches dropped a block is the identity, which a norm after the drop is not."""
    model = small_model(drop_path_rate=0.5).train()
    block, x = model.stages[1].blocks[1], torch.randn(8, 3, 4, 32)
    torch.manual_seed(1)
    fused = block(x)
    torch.manual_seed(1)
    torch.testing.assert_close(fused, block._by_modules(x))
    assert 1 <= sum(torch.equal(a, b) for a, b in zip(fused, x, strict=True)) <= 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("impl", ["reference", "sdpa", "auto"])
def test_finite_in_mixed_precision_with_padded_maps_fp16(impl, dtype):
    """Keys of padding have length 0, whose gradient would be infinite."""
    model = small_model(attn_impl=impl).train()
    exact = outputs_and_gradients(copy.deepcopy(model).double(), image(torch.float64))
    with torch.autocast("cpu", dtype):
        maps, grads = outputs_and_gradients(model, image(torch.float32))
    assert all(x.isfinite().all() for x in (*maps, *grads.values()))
    # Logits up to 100 are rounded by up to 0.03 in fp16, and by 0.25 in bf16.
    assert_agree((maps, {}), (exact[0], {}), 0.06 if dtype == torch.float16 else 0.2)


def image(dtype):
    return torch.randn(1, 3, 27, 38, generator=torch.Generator().manual_seed(4)).to(dtype)


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_tokens_of_zeros(impl):
    """Real ones, as of a map that is black: gradients stay finite in half precision too."""
    model = small_model(attn_impl=impl).train()
    attention = model.stages[0].blocks[0].attn["w_msa"]
    with torch.no_grad():
        attention.q_bias.zero_()
    x = torch.zeros(1, 6, 6, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(x)
    out.float().square().sum().backward()
    assert x.grad.isfinite().all()


@torch.no_grad()
def test_bias_is_cached_until_weights_change():
    model = small_model().eval()
    attention = model.stages[0].blocks[0].attn["w_msa"]
    calls = []
    attention.cpb_mlp[1].register_forward_hook(lambda *_: calls.append(1))

    def changed(change):
        before, count = model(x)[0], len(calls)
        model(x)
        assert len(calls) == count
        change()
        after = model(x)[0]
        assert len(calls) == count + 1
        return not torch.equal(before, after)

    x = image(torch.float32)
    state = {k: v + 0.1 * ("coords" not in k) for k, v in model.state_dict().items()}
    assert changed(lambda: attention.cpb_mlp[0].weight.data.mul_(2))
    assert changed(lambda: attention.relative_coords_table.mul_(0.5))
    assert changed(lambda: model.load_state_dict(state))
    assert not changed(lambda: model.train().eval())


def test_bias_of_a_frozen_stage_serves_training():
    """Made in inference mode, where PyTorch's tensors can take part in no graph later."""
    model = small_model(frozen_stages=0)
    with torch.inference_mode():
        model.eval()(image(torch.float32))
    model.train()(image(torch.float32))[1].sum().backward()


def test_large_windows_by_triton_are_by_sdpa(caplog, monkeypatch):
    monkeypatch.setattr("swin_dense.ops.triton_support.unavailable_reason", lambda: None)
    with caplog.at_level(logging.DEBUG, "swin_dense"):
        model = SwinTransformerV2(ARCH, window_size=(8, 17), out_indices=(0,), attn_impl="triton")
    found = [stage.blocks[0].attn["w_msa"].attn_impl.name for stage in model.stages]
    assert found == ["triton", "sdpa"]
    assert "'sdpa' for windows of 17" in caplog.text


def test_another_window_is_another_table_of_the_same_weights():
    """Offsets in the larger window begin with those in the smaller: the bias is the same there."""
    small = small_model(window_size=4, pretrained_window_sizes=4).eval()
    large = small_model(window_size=6).eval()
    large.load_state_dict(small.state_dict())
    attention = [m.stages[0].blocks[0].attn["w_msa"] for m in (small, large)]
    expected = log_spaced_offsets(6, 4)
    torch.testing.assert_close(attention[1].relative_coords_table, expected, rtol=0, atol=0)
    a, b = (one.position_bias() for one in attention)
    corner = [row * 6 + column for row in range(4) for column in range(4)]
    torch.testing.assert_close(b[:, corner][:, :, corner], a)


def test_attn_impl_reaches_every_layer():
    model = small_model(attn_impl="sdpa")
    parsed = {m.attn_impl for m in model.modules() if hasattr(m, "attn_impl")}
    assert parsed == {AttnImpl.parse("sdpa")}
