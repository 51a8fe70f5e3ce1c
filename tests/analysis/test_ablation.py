"""Tables 4 and 6: the options of each variant. Table 5: both kinds of shift are the same."""

import json
from pathlib import Path

import pytest
import torch
from mmengine import Config

from swin_dense.analysis import Counts, ablation, count_config
from swin_dense.engine.config.load import merge_options
from swin_dense.ops.window_attention import shifted_window_attention

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def count_backbone(cfg: Config) -> Counts:
    """The backbone alone, where all differences are; counting a whole model takes longer."""
    backbone = Config({"default_scope": "mmdet", "model": cfg.model.backbone})
    return count_config(backbone, (56, 56), forward=lambda model, image: model(image))


@pytest.fixture(scope="module")
def variants() -> dict[str, ablation.Variant]:
    """Of the segmentor; those of the detector are built in the same way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "count_config", count_backbone)
        found = ablation.count_variants(CONFIGS, ["upernet_swin_t_ade20k"])
        return {variant.name: variant for variant in found}


def test_published_scores_equal_the_tables(shared):
    tables = json.loads((shared / "paper" / "tables.json").read_text(encoding="utf-8"))
    published = tables[ablation.TABLE_4]
    published.pop("columns")
    ours = {name: scores for name, (_, scores) in ablation.VARIANTS.items()}
    assert {name: tuple(row[2:]) for name, row in published.items()} == ours
    published = tables[ablation.TABLE_6]
    assert published.pop("columns")
    for name, row in published.items():
        assert ablation.IMAGENET[name] == tuple(row[:2])
        _, scores = ablation.ATTENTIONS.get(name, ({}, (None, None, None)))
        assert scores == tuple(row[2:])


def test_parameters_of_the_variants(variants):
    params = {name: variant.counts.params for name, variant in variants.items()}
    full = params["rel. pos."]
    # (2 M - 1)^2 entries per head of each block; an embedding of 56 x 56 patches.
    tables = 13**2 * (2 * 3 + 2 * 6 + 6 * 12 + 2 * 24)
    embedding = 56 * 56 * 96
    assert params == {
        "w/o shifting": full,
        "shifted windows": full,
        "no pos.": full - tables,
        "abs. pos.": full - tables + embedding,
        "abs.+rel. pos.": full + embedding,
        "rel. pos. w/o app.": full,
        "rel. pos.": full,
        # k^2 entries per head of each block.
        "sliding window": full - tables + tables // 13**2 * 7**2,
        "shifted window": full,
    }


def test_variants_have_equal_macs(variants):
    sliding = variants["sliding window"].counts.macs
    others = {one.counts.macs for name, one in variants.items() if name != "sliding window"}
    assert len(others) == 1
    # It pads nothing, others pad four stages of 14, 7, 4 and 2 tokens to windows of 7.
    assert 0.3 < sliding / others.pop() < 1


def test_variant_as_json(variants):
    entry = variants["abs. pos."].as_json()
    assert entry["config"] == "configs/upernet_swin_t_ade20k.py"
    assert entry["cfg_options"] == {
        "model.backbone.use_rel_pos_bias": False,
        "model.backbone.use_abs_pos_embed": True,
    }
    assert entry["paper_scores"] == {"mIoU": 43.2}
    assert entry["crop"] == 512


def test_options_equal_those_of_the_configs():
    detector, segmentor = (Config.fromfile(CONFIGS / f"{stem}.py") for stem in ablation.METHODS)
    assert detector.default_scope == "mmdet"
    assert segmentor.default_scope == "mmseg"
    for options, _ in (*ablation.VARIANTS.values(), *ablation.ATTENTIONS.values()):
        merge_options(detector, options)


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (7, 9), (3, 2)])
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_padded_shift_equals_cyclic_shift(size, shift):
    window, heads, channels = 4, 2, 6
    qkv = torch.randn(2, *size, 3 * channels, dtype=torch.float64)
    qkv_bias = torch.randn(3 * channels, dtype=torch.float64)
    bias = torch.randn(heads, window**2, window**2, dtype=torch.float64)
    cyclic = shifted_window_attention(
        qkv,
        qkv_bias,
        bias,
        num_heads=heads,
        window_size=window,
        shift_size=shift,
        scale=0.5,
        impl="reference",
    )
    padded = ablation.padded_window_attention(qkv, qkv_bias, bias, heads, window, shift, 0.5)
    # Both mask with -100: masked weights are of the order exp(-100), far below rounding.
    torch.testing.assert_close(padded, cyclic, rtol=1e-12, atol=1e-12)


def test_sliding_window_multiplies_as_a_window_does():
    """Where windows divide the map: k * k keys a token in both."""
    counts = []
    for options in ({}, {"attention": "sliding", "attn_impl": "reference"}):
        backbone = {"type": "swin_dense.SwinTransformer", "depths": (2,), "num_heads": (3,)}
        model = backbone | {"strides": (4,), "out_indices": (0,)} | options
        cfg = Config({"default_scope": "mmdet", "model": model})
        counts.append(count_config(cfg, (56, 56), forward=lambda model, image: model(image)).macs)
    assert counts[0] == counts[1]


def test_every_kind_of_shift_and_stage_is_timed(monkeypatch):
    monkeypatch.setattr(ablation, "STAGES", ((7, 6, 1), (9, 12, 2)))
    times = ablation.measure_stages(torch.device("cpu"), 1, seconds=0.001, rounds=2)
    assert [t.kind for t in times] == list(ablation.PAPER_SPEED)
    built = [t for t in times if t.kind != "Performer"]
    assert all(len(t.milliseconds) == 2 and min(t.milliseconds) > 0 for t in built)
    assert [t.remark for t in times if t not in built] == ["not specified, not built"]


def test_published_times_equal_the_tables(shared):
    tables = json.loads((shared / "paper" / "tables.json").read_text(encoding="utf-8"))
    published = tables[ablation.TABLE_5]
    assert published.pop("columns")
    assert {k: [*ms, *fps] for k, (ms, fps) in ablation.PAPER_SPEED.items()} == published
