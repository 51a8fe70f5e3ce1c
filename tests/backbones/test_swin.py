"""The Swin backbone apart from parity: shapes, arguments, freezing, options."""

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from swin_dense import SwinTransformer

SMALL = {"embed_dims": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 3}


@pytest.mark.parametrize("size", [(1, 1), (5, 130), (64, 33)])
def test_feature_map_shapes(size):
    model = SwinTransformer(**SMALL).eval()
    maps = model(torch.zeros(2, 3, *size))
    assert isinstance(maps, tuple)
    expected = [
        (2, 8 * 2**i, *(-(-side // stride) for side in size))
        for i, stride in enumerate((4, 8, 16, 32))
    ]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(m.is_contiguous() for m in maps)


@pytest.mark.parametrize("registry", [MMDET_MODELS, MMSEG_MODELS], ids=["mmdet", "mmseg"])
def test_builds_from_mmdet_and_mmseg_registries(registry):
    model = registry.build(
        {
            "type": "swin_dense.SwinTransformer",
            "embed_dims": 8,
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 1, 1, 1),
        }
    )
    assert isinstance(model, SwinTransformer)


@pytest.mark.parametrize(
    ("arch", "millions"), [("tiny", 27.5), ("small", 48.8), ("base", 86.7), ("large", 195.0)]
)
def test_parameter_counts(arch, millions):
    """The paper's variants without the classifier head, with four output norms."""
    with torch.device("meta"):
        model = SwinTransformer(arch=arch)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=2e-3)


BAD = {
    r"no argument 'window'.*did you mean 'window_size'": {"window": 7},
    r"no argument 'foo'.*known are pretrain_img_size": {"foo": 1},
    r"arch must be one of tiny, .* got 'huge'": {"arch": "huge"},
    r"arch='base' has depths=\(2, 2, 18, 2\), got depths=\(1, 1\)": {
        "arch": "base",
        "depths": (1, 1),
    },
    r"num_heads needs one entry per stage \(4\), got \(1, 2\)": {"num_heads": (1, 2)},
    r"num_heads\[1\] must divide 192, got 7": {"num_heads": (3, 7, 12, 24)},
    r"patch_size must equal strides\[0\]=4, got 8": {"patch_size": 8},
    r"out_indices must lie in 0..3, got \(4,\)": {"out_indices": (4,)},
    r"frozen_stages must lie in -1..4, got 5": {"frozen_stages": 5},
    r"window_size must be at least 1, got 0": {"window_size": 0},
    r"drop rates must lie in 0..1": {"drop_path_rate": 1.5},
    r"attn_impl must be one of auto, .*triton, got 'flash'": {"attn_impl": "flash"},
    r"pretrained and init_cfg exclude each other": {
        "pretrained": "a",
        "init_cfg": {"checkpoint": "b"},
    },
    r"init_cfg must be dict\(type='Pretrained'": {"init_cfg": {"type": "TruncNormal"}},
    r"pretrain_img_size must be one or two numbers": {"pretrain_img_size": (1, 2, 3)},
    r"use_dot_product must stay True": {"use_rel_pos_bias": False, "use_dot_product": False},
}


@pytest.mark.parametrize("message", BAD)
def test_invalid_arguments_raise(message):
    with pytest.raises(ValueError, match=message):
        SwinTransformer(**BAD[message])


@pytest.mark.parametrize("stages", [-1, 0, 1, 3, 4])
def test_frozen_stages(stages):
    model = SwinTransformer(
        **SMALL, frozen_stages=stages, drop_path_rate=0.5, use_abs_pos_embed=True
    )
    for trained in (model, model.train(), model.eval().train()):
        names = [name for name, p in trained.named_parameters() if not p.requires_grad]
        frozen = {".".join(n.split(".")[: 1 + n.startswith("stages")]) for n in names}
        expected = set()
        if stages >= 0:
            expected = {"patch_embed", "absolute_pos_embed"}
            expected |= {f"stages.{i}" for i in range(stages)} | {f"norm{i}" for i in range(stages)}
        assert frozen == expected
    assert [stage.training for stage in model.stages] == [i >= stages for i in range(4)]


def test_train_and_eval_return_the_model():
    model = SwinTransformer(**SMALL)
    assert model.eval() is model
    assert model.train() is model


def test_drop_path_grows_linearly():
    model = SwinTransformer(**SMALL, drop_path_rate=0.7)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


def gradients(model, x):
    model.zero_grad()
    sum(m.square().mean() for m in model(x)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_checkpointing_under_ddp_gives_the_same_gradients(tmp_path):
    """Reentrant checkpointing would mark parameters ready twice or never, and DDP would fail."""
    model = SwinTransformer(**SMALL, with_cp=True, drop_path_rate=0.0)
    x = torch.randn(2, 3, 40, 40)
    expected = gradients(SwinTransformer(**SMALL, drop_path_rate=0.0).train(), x).keys()
    plain = SwinTransformer(**SMALL, drop_path_rate=0.0)
    plain.load_state_dict(model.state_dict())
    expected = gradients(plain, x)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for key, gradient in gradients(DistributedDataParallel(model), x).items():
            torch.testing.assert_close(gradient, expected[key.removeprefix("module.")])
    finally:
        dist.destroy_process_group()


def test_checkpointing_saves_memory(monkeypatch):
    x = torch.randn(1, 3, 64, 64)

    def saved_bytes(**kwargs):
        storages = {}

        def pack(t):
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            maps = SwinTransformer(**SMALL, **kwargs)(x)
        assert maps
        return sum(storages.values())

    assert saved_bytes(with_cp=True) < 0.5 * saved_bytes()


def test_absolute_embedding_is_resized_to_the_input():
    model = SwinTransformer(**SMALL, use_abs_pos_embed=True, pretrain_img_size=32).eval()
    torch.nn.init.normal_(model.absolute_pos_embed)
    for size in [(32, 32), (50, 21), (3, 200)]:
        x = torch.randn(1, 3, *size)
        with_embedding = model(x)
        embedding = model.absolute_pos_embed.data.clone()
        model.absolute_pos_embed.data.zero_()
        without = model(x)
        model.absolute_pos_embed.data.copy_(embedding)
        assert not torch.allclose(with_embedding[0], without[0])
    # A constant embedding is the same constant at every size.
    constant = SwinTransformer(**SMALL, use_abs_pos_embed=True, pretrain_img_size=32).eval()
    constant.load_state_dict(model.state_dict())
    constant.absolute_pos_embed.data[:] = 0.25
    moved = SwinTransformer(**SMALL, patch_norm=False)
    assert moved.absolute_pos_embed is None
    seen = []
    constant.drop_after_pos.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    x = torch.randn(1, 3, 50, 21)
    constant(x)
    torch.testing.assert_close(seen[0], constant.patch_embed(x) + 0.25)


TABLE_4 = {
    "w/o shifting": {"use_shift": False},
    "no pos.": {"use_rel_pos_bias": False},
    "abs. pos.": {"use_rel_pos_bias": False, "use_abs_pos_embed": True},
    "abs.+rel. pos.": {"use_abs_pos_embed": True},
    "rel. pos. w/o app.": {"use_dot_product": False},
    "rel. pos.": {},
}


def test_table_4_variants():
    full = SwinTransformer(**SMALL, use_abs_pos_embed=True).eval()
    for p in full.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(1, 3, 64, 64)
    maps = {}
    for name, kwargs in TABLE_4.items():
        model = SwinTransformer(**SMALL, **kwargs).eval()
        report = model.load_state_dict(full.state_dict(), strict=False)
        assert not report.missing_keys
        names = dict(model.named_parameters())
        assert any("bias_table" in n for n in names) == ("rel" in name or name == "w/o shifting")
        assert ("absolute_pos_embed" in names) == ("abs" in name)
        maps[name] = model(x)[-1]
    for name, other in [(a, b) for a in maps for b in maps if a < b]:
        assert not torch.allclose(maps[name], maps[other], atol=1e-3), (name, other)


def test_without_shift_windows_are_independent():
    """In one stage, a change in a window affects no other window, unless windows are shifted."""
    x = torch.randn(1, 3, 24, 24)  # 6 x 6 patches, 2 x 2 windows of 3 x 3
    changed = x.clone()
    changed[..., :12, :12] += 1
    for use_shift in (True, False):
        model = SwinTransformer(**SMALL, out_indices=(0,), use_shift=use_shift).eval()
        model.init_weights()
        difference = (model(x)[0] - model(changed)[0]).abs().amax((0, 1))
        assert (difference[3:, 3:] > 0).any() == use_shift


def test_attention_without_dot_product_ignores_queries_and_keys():
    model = SwinTransformer(**SMALL, use_dot_product=False)
    model.init_weights()
    grads = gradients(model, torch.randn(1, 3, 24, 24))
    q, k, v = grads["stages.0.blocks.1.attn.w_msa.qkv.weight"].chunk(3)
    assert q.abs().max() == 0
    assert k.abs().max() == 0
    assert v.abs().max() > 0


def test_initialisation_from_scratch():
    model = SwinTransformer(
        embed_dims=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), use_abs_pos_embed=True
    )
    model.init_weights()
    for name, p in model.named_parameters():
        if name.endswith(("bias_table", "absolute_pos_embed", "qkv.weight", "reduction.weight")):
            assert p.std().item() == pytest.approx(0.02, rel=0.15), name
        elif "norm" in name or name.endswith("qkv.bias"):
            assert torch.equal(
                p, torch.full_like(p, float("norm" in name and name.endswith("weight")))
            ), name
