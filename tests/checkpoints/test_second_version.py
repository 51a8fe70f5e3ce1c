"""Swin V2 weights in all layouts, for other windows than they were pretrained with."""

import itertools

import pytest
import torch
from torch import nn

from swin_dense import SwinTransformer, SwinTransformerV2
from swin_dense.checkpoints import TARGETS, convert, find_backbone, load_backbone
from swin_dense.checkpoints.layouts import SWIN_V2
from swin_dense.errors import UserError

ARCH = {"embed_dims": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 2)}
LIBRARIES = {"depths": [1, 2, 1], "num_heads": [1, 2, 2], "embed_dim": 8}


def randomised(model):
    for name, p in model.named_parameters():
        is_norm = p.ndim == 1 and "norm" in name and name.endswith("weight")
        nn.init.normal_(p, mean=1.0 if is_norm else 0.0, std=0.2)
        if name.endswith("logit_scale"):
            nn.init.normal_(p, mean=2.3, std=1.5)
    return model.eval()


def backbone(**options):
    options = {"arch": ARCH, "window_size": 4, "out_indices": (0, 1, 2)} | options
    return randomised(SwinTransformerV2(**options))


def timm_classifier(window=4):
    timm = pytest.importorskip("timm")
    swin = timm.models.swin_transformer_v2.SwinTransformerV2
    depths = {"depths": (1, 2, 1), "num_heads": (1, 2, 2), "embed_dim": 8}
    return randomised(swin(img_size=128, window_size=window, num_classes=5, **depths))


def hugging_face(kind="Swinv2ForImageClassification", window=4, **options):
    transformers = pytest.importorskip("transformers")
    sizes = {"image_size": 512, "window_size": window, "num_labels": 5} | LIBRARIES | options
    return randomised(getattr(transformers, kind)(transformers.Swinv2Config(**sizes)))


def torchvision_classifier(window=4):
    from torchvision.models.swin_transformer import (
        PatchMergingV2,
        SwinTransformerBlockV2,
    )
    from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

    model = randomised(
        TorchvisionSwin(
            [4, 4], 8, [1, 2, 1], [1, 2, 2], [window, window], num_classes=5,
            block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
        )
    )  # fmt: skip
    for name, bias in model.named_parameters():
        if name.endswith("attn.qkv.bias"):  # as its forward makes it
            bias.data[len(bias) // 3 : 2 * len(bias) // 3] = 0
    return model


def official_classifier():
    return convert(torchvision_classifier().state_dict(), "official").state


def simmim():
    """As SimMIM and the authors' dense code name it, with an extra norm."""
    extra = backbone(arch=ARCH | {"extra_norm_every_n_blocks": 2}).state_dict()
    state = convert(extra, "official").state
    state = {k: v for k, v in state.items() if not k.startswith(("norm", "head"))}
    state = {k.replace("cpb_mlp", "rpe_mlp").replace(".norm3.", ".enorm."): v
             for k, v in state.items()}  # fmt: skip
    state["mask_token"] = torch.zeros(1, 1, 8)
    return {f"encoder.{k}": v for k, v in state.items()} | {"decoder.0.bias": torch.zeros(5)}


SOURCES = {
    "our backbone": ("openmmlab", lambda: backbone().state_dict()),
    "our backbone with position": (
        "openmmlab",
        lambda: backbone(use_abs_pos_embed=True, img_size=64).state_dict(),
    ),
    "official classifier": ("official", official_classifier),
    "timm classifier": ("timm", lambda: timm_classifier().state_dict()),
    "hf classifier": ("hf", lambda: hugging_face().state_dict()),
    "hf model": ("hf", lambda: hugging_face("Swinv2Model").state_dict()),
    "torchvision classifier": ("torchvision", lambda: torchvision_classifier().state_dict()),
}
# timm and Hugging Face have no table of offsets, and the index that follows from it.
TABLES = ("relative_coords_table", "relative_position_index")


def assert_equal(found, expected, without=()):
    assert {k for k in found if not k.endswith(without)} == {
        k for k in expected if not k.endswith(without)
    }
    for key, value in expected.items():
        if not key.endswith(without):
            assert torch.equal(found[key], value), key


@pytest.mark.parametrize(("source", "via"), list(itertools.product(SOURCES, TARGETS)))
def test_round_trip_is_exact(source, via):
    layout, make = SOURCES[source]
    state = make()
    converted = convert(state, via)
    assert converted.layout == layout
    again = find_backbone(converted.state)
    assert again.architecture == SWIN_V2
    assert again.layout.name == TARGETS[via].name
    lost = TABLES if via.startswith(("timm", "hf")) or source == "our backbone" else ()
    lost = TABLES if "our backbone" in source else lost
    assert_equal(convert(converted.state, layout).state, state, lost)


@pytest.mark.parametrize("library", [timm_classifier, hugging_face, torchvision_classifier])
@pytest.mark.parametrize("source", [s for s in SOURCES if "classifier" in s])
def test_classifier_loads_strictly_into_library_model(source, library):
    model = library()
    to = {timm_classifier: "timm", hugging_face: "hf"}.get(library, "torchvision")
    state = convert(SOURCES[source][1](), to).state
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    missing = [k for k in report.missing_keys if not k.endswith(TABLES)]
    assert not missing
    if source.startswith(("official", "torchvision")):
        assert not report.missing_keys


@pytest.mark.parametrize("source", SOURCES)
def test_loads_as_it_is(source):
    layout, make = SOURCES[source]
    model = backbone(pretrained_window_sizes=4, use_abs_pos_embed="position" in source, img_size=64)
    state = make()
    report = load_backbone(model, state, "file.pth")
    assert report.layout == layout
    assert not {name for name in report.missing if not name.startswith("norm")}
    expected = convert(state, "openmmlab").state
    for name in report.loaded:
        value = model.state_dict()[name]
        assert torch.equal(value, expected[name].reshape(value.shape)), name


def test_simmim_loads():
    state = simmim()
    model = backbone(arch=ARCH | {"extra_norm_every_n_blocks": 2})
    report = load_backbone(model, {"model": state}, "simmim.pth")
    assert {name for name in report.missing if not name.startswith("norm")} == set()
    found = model.state_dict()
    name = "blocks.0.attn.cpb_mlp.0.weight"
    key = "stages.0.blocks.0.attn.w_msa.cpb_mlp.0.weight"
    assert torch.equal(found[key], state[f"encoder.layers.0.{name}".replace("cpb", "rpe")])
    norm = found["stages.1.blocks.1.norm3.weight"]
    assert torch.equal(norm, state["encoder.layers.1.blocks.1.enorm.weight"])


@pytest.mark.parametrize("to", ["openmmlab", "official"])
def test_heads_of_a_segmentor_are_kept(to):
    """And it loads from either layout, with its output norms."""
    state = {f"backbone.{k}": v for k, v in backbone().state_dict().items()}
    state["decode_head.conv_seg.weight"] = torch.ones(2)
    converted = convert({"state_dict": state}, to)
    assert converted.is_full_model
    assert "decode_head.conv_seg.weight" in converted.state
    model = backbone()
    report = load_backbone(model, converted.state, "segmentor.pth")
    assert not report.missing
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[f"backbone.{name}"]), name


def test_feature_distillation_gives_the_student():
    """Its file holds the teacher too, which is a first Swin."""
    teacher = convert(
        SwinTransformer(embed_dims=8, depths=(1, 2, 1), num_heads=(1, 2, 2), strides=(4, 2, 2),
                        out_indices=(0,)).state_dict(), "official",
    ).state  # fmt: skip
    state = simmim() | {f"feature_model.{k}": v for k, v in teacher.items()}
    model = backbone(arch=ARCH | {"extra_norm_every_n_blocks": 2})
    load_backbone(model, {"model": state}, "fd.pth")
    assert torch.equal(
        model.patch_embed.projection.weight, state["encoder.patch_embed.proj.weight"]
    )


def with_table(window, pretrained):
    return backbone(window_size=window, pretrained_window_sizes=pretrained).state_dict()


def test_pretraining_window_is_read_from_the_file():
    """A file of fine-tuned weights has the table of its own window, relative to the first."""
    model = backbone(window_size=(6, 6, 3))
    load_backbone(model, with_table((4, 4, 4), (3, 3, 2)), "file.pth")
    expected = backbone(window_size=(6, 6, 3), pretrained_window_sizes=(3, 3, 2)).state_dict()
    for name, value in model.state_dict().items():
        if name.endswith("relative_coords_table"):
            assert torch.equal(value, expected[name]), name


def test_another_pretraining_window_is_an_error_that_names_both():
    model = backbone(window_size=8, pretrained_window_sizes=0)
    message = (
        r"pretrained with windows of 4 4 2 tokens, the config has pretrained_window_sizes of 8 8 8"
        r": give pretrained_window_sizes=\[4, 4, 2\]"
    )
    with pytest.raises(UserError, match=message):
        load_backbone(model, with_table((4, 4, 2), 0), "file.pth")


def test_pretraining_window_is_demanded_where_the_file_has_none():
    state = timm_classifier().state_dict()
    with pytest.raises(UserError, match=r"do not say the windows .* give pretrained_window_sizes"):
        load_backbone(backbone(), state, "timm.pth")
    load_backbone(backbone(pretrained_window_sizes=4), state, "timm.pth")


def test_other_heads_are_named():
    model = backbone(arch=ARCH | {"num_heads": (2, 2, 4)})
    message = r"have 1 2 2 attention heads in their stages, the config has 2 2 4.*=\[1, 2, 2\]"
    with pytest.raises(UserError, match=message):
        load_backbone(model, backbone().state_dict(), "file.pth")


def test_versions_refuse_each_other():
    one = SwinTransformer(embed_dims=8, depths=(1, 2, 1), num_heads=(1, 2, 2), strides=(4, 2, 2),
                          out_indices=(0, 1, 2))  # fmt: skip
    with pytest.raises(UserError, match=r"of Swin Transformer V2: use .*\.SwinTransformerV2'"):
        load_backbone(one, backbone().state_dict(), "v2.pth")
    with pytest.raises(UserError, match=r"of the first Swin Transformer: use .*\.SwinTransformer'"):
        load_backbone(backbone(), one.state_dict(), "v1.pth")


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("layers.1.blocks.1.mlp._moe_layer.experts.batched_fc1_w", "Swin-MoE"),
        ("layers.0.blocks.0.attn.meta_mlp.fc1.weight", "swinv2_cr"),
        ("layers.0.rel_pos_bias.rpe_mlp.0.weight", "share a position bias"),
    ],
)
def test_relatives_are_refused_by_name(extra, what):
    state = convert(backbone().state_dict(), "official").state | {extra: torch.zeros(1)}
    with pytest.raises(UserError, match=what):
        find_backbone(state)
    without = {k: v for k, v in state.items() if "logit_scale" not in k}
    with pytest.raises(UserError, match="Swin-MoE|" + what):
        find_backbone(without)


def ours(state, window):
    """Our backbone with these weights and no output norms."""
    model = backbone(window_size=window, pretrained_window_sizes=window, norm_cfg=None)
    model.load_state_dict(state, strict=False)
    return model.eval()


def assert_same_maps(maps, expected):
    assert len(maps) == len(expected) == 3
    for a, b in zip(maps, expected, strict=True):
        assert 0.05 < b.std() < 50  # not trivially equal
        torch.testing.assert_close(a, b, atol=3e-4, rtol=0)


@torch.no_grad()
def test_feature_maps_of_timm():
    """On maps of several whole windows, where it is the same function."""
    timm = pytest.importorskip("timm")
    theirs = randomised(
        timm.models.swin_transformer_v2.SwinTransformerV2(
            img_size=128, window_size=4, embed_dim=8, depths=(1, 2, 1), num_heads=(1, 2, 2),
            num_classes=5,
        )
    )  # fmt: skip
    image = torch.randn(1, 3, 128, 128)
    maps = theirs.forward_intermediates(image, norm=False)[1]
    assert_same_maps(ours(theirs.state_dict(), 4)(image), maps)


@pytest.mark.parametrize("size", [(128, 128), (150, 99)])
@torch.no_grad()
def test_feature_maps_of_transformers(size):
    """Also on padded maps: its windows are fixed by the image size of its config."""
    stages = {"out_features": ["stage1", "stage2", "stage3"]}
    theirs = hugging_face("Swinv2Backbone", **stages)
    image = torch.randn(1, 3, *size)
    assert_same_maps(ours(theirs.state_dict(), 4)(image), theirs(image).feature_maps)


@pytest.mark.parametrize("size", [(128, 128), (150, 99)])
@torch.no_grad()
def test_feature_maps_of_torchvision(size):
    theirs = torchvision_classifier()
    image = torch.randn(1, 3, *size)
    maps, x = [], image
    if size != (128, 128):  # it drops what is left of the last patch
        image = x = torch.randn(1, 3, 152, 100)
    for i, part in enumerate(theirs.features):
        x = part(x)
        if i % 2:
            maps.append(x.permute(0, 3, 1, 2))
    assert_same_maps(ours(theirs.state_dict(), 4)(image), maps)
