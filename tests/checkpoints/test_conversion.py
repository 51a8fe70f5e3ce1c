"""Conversion between all layouts: round trips, and loading into the libraries' own models."""

import itertools

import pytest
import torch
from torch import nn

from swin_dense import SwinTransformer
from swin_dense.checkpoints import TARGETS, convert, find_backbone
from swin_dense.checkpoints.conversion import as_checkpoint
from swin_dense.checkpoints.layouts.base import rename
from swin_dense.errors import UserError

SIZES = {"embed_dims": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 2)}


def randomised(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def backbone(**kwargs):
    return randomised(SwinTransformer(**SIZES, strides=(4, 2, 2), out_indices=(0, 1, 2), **kwargs))


def timm_classifier():
    timm = pytest.importorskip("timm")
    return randomised(
        timm.models.swin_transformer.SwinTransformer(
            img_size=112, embed_dim=8, depths=(1, 2, 1), num_heads=(1, 2, 2), num_classes=5
        )
    )


def hugging_face(kind="SwinForImageClassification", **kwargs):
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=112, embed_dim=8, depths=[1, 2, 1], num_heads=[1, 2, 2], num_labels=5, **kwargs
    )
    return randomised(getattr(transformers, kind)(config))


def torchvision_classifier():
    from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

    return randomised(TorchvisionSwin([4, 4], 8, [1, 2, 1], [1, 2, 2], [7, 7], num_classes=5))


def classifier_like(state, to):
    """A classifier in a layout whose library is not installed."""
    return convert(state, to).state


STAGES = {"out_features": ["stage1", "stage2", "stage3"]}
# Each is a layout and a state dict as that library's code creates it.
SOURCES = {
    "our backbone": ("openmmlab", lambda: backbone().state_dict()),
    "our backbone with position": (
        "openmmlab",
        lambda: backbone(use_abs_pos_embed=True, pretrain_img_size=112).state_dict(),
    ),
    "official classifier": (
        "official",
        lambda: classifier_like(timm_classifier().state_dict(), "official"),
    ),
    "official backbone": ("official", lambda: classifier_like(backbone().state_dict(), "official")),
    "official backbone with position": (
        "official",
        lambda: classifier_like(
            backbone(use_abs_pos_embed=True, pretrain_img_size=112).state_dict(), "official"
        ),
    ),
    "timm classifier": ("timm", lambda: timm_classifier().state_dict()),
    "hf classifier": ("hf", lambda: hugging_face().state_dict()),
    "hf model": ("hf", lambda: hugging_face("SwinModel").state_dict()),
    "hf backbone": ("hf", lambda: hugging_face("SwinBackbone", **STAGES).state_dict()),
    "hf masked model": ("hf", lambda: hugging_face("SwinForMaskedImageModeling").state_dict()),
    "torchvision classifier": ("torchvision", lambda: torchvision_classifier().state_dict()),
}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize(("source", "via"), list(itertools.product(SOURCES, TARGETS)))
def test_round_trip_is_exact(source, via):
    layout, make = SOURCES[source]
    state = make()
    converted = convert(state, via)
    assert converted.layout == layout
    again = find_backbone(converted.state)
    assert again.layout is TARGETS[via]
    assert_equal(convert(converted.state, layout).state, state)


@pytest.mark.parametrize("source", [s for s in SOURCES if "classifier" in s])
@pytest.mark.parametrize("library", ["timm", "hf", "torchvision"])
def test_classifier_loads_strictly_into_library_model(source, library):
    model = {
        "timm": timm_classifier,
        "hf": hugging_face,
        "torchvision": torchvision_classifier,
    }[library]()
    _, make = SOURCES[source]
    model.load_state_dict(convert(make(), library).state, strict=True)


def test_backbone_with_output_norms_loads_into_transformers():
    pytest.importorskip("transformers")
    theirs = hugging_face("SwinBackbone", **STAGES)
    state = convert(backbone().state_dict(), "hf").state
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("layernorm" in name for name in missing)  # the final norm, which it never uses


def test_backbone_loads_strictly_into_mmdet():
    from mmdet.models.backbones.swin import SwinTransformer as MMDetSwin

    theirs = MMDetSwin(**SIZES, strides=(4, 2, 2), out_indices=(0, 1, 2))
    state = convert(convert(backbone().state_dict(), "torchvision").state, "openmmlab").state
    theirs.load_state_dict(state, strict=True)


def test_parameter_names_of_hub_files():
    """Names from the documentation and hub files, for any version of transformers."""
    state = convert(torchvision_classifier().state_dict(), "hf4").state
    block = "swin.encoder.layers.1.blocks.1"
    assert state[f"{block}.attention.self.key.weight"].shape == (16, 16)
    assert state[f"{block}.attention.output.dense.bias"].shape == (16,)
    assert state[f"{block}.intermediate.dense.weight"].shape == (64, 16)
    assert state[f"{block}.output.dense.weight"].shape == (16, 64)
    assert state["swin.encoder.layers.0.downsample.reduction.weight"].shape == (16, 32)
    assert state["swin.embeddings.patch_embeddings.projection.weight"].shape == (8, 3, 4, 4)
    assert state["swin.layernorm.weight"].shape == (32,)
    assert state["classifier.weight"].shape == (5, 32)


def test_parameter_names_of_transformers_since_5_9():
    state = convert(torchvision_classifier().state_dict(), "hf5").state
    block = "swin.encoder.layers.1.blocks.1"
    assert state[f"{block}.attention.v_proj.weight"].shape == (16, 16)
    assert state[f"{block}.attention.o_proj.bias"].shape == (16,)
    assert state[f"{block}.mlp.fc1.weight"].shape == (64, 16)
    table = "attention.relative_position_bias.relative_position_bias_table"
    assert state[f"{block}.{table}"].shape == (169, 2)
    assert not any(name.endswith("index") for name in state)


def test_last_norm_of_mmpretrain_is_the_final_norm_of_classifiers():
    state = backbone().state_dict()
    wrapped = {f"backbone.{k}": v for k, v in state.items() if not k.startswith(("norm0", "norm1"))}
    wrapped |= {"head.fc.weight": torch.ones(5, 32), "head.fc.bias": torch.zeros(5)}
    converted = convert({"meta": {}, "state_dict": wrapped}, "timm")
    assert torch.equal(converted.state["norm.weight"], state["norm2.weight"])
    timm_classifier().load_state_dict(converted.state, strict=True)


def detector():
    state = {f"module.backbone.{k}": v for k, v in backbone().state_dict().items()}
    return {"state_dict": state | {"module.neck.convs.0.weight": torch.ones(2)}, "meta": {"a": 1}}


@pytest.mark.parametrize("to", ["official", "openmmlab"])
def test_detector_keeps_its_heads_in_detector_layouts(to):
    converted = convert(detector(), to)
    assert converted.is_full_model
    assert torch.equal(converted.state["neck.convs.0.weight"], torch.ones(2))
    assert find_backbone(converted.state).prefix == "backbone."
    file = as_checkpoint(converted, to, {"a": 1})
    assert file["meta"] == {"a": 1}
    assert file["state_dict"] == converted.state


def test_classification_layouts_get_the_backbone_only():
    converted = convert(detector(), "torchvision")
    assert converted.dropped == ["module.neck.convs.0.weight"]
    assert converted.unmapped == [f"norm{i}.{n}" for i in range(3) for n in ("weight", "bias")]
    assert "features.1.0.norm1.weight" in converted.state


def test_official_classifier_is_read_from_the_key_model():
    converted = convert(backbone().state_dict(), "official")
    assert as_checkpoint(converted, "official", None) == {"model": converted.state}
    assert as_checkpoint(converted, "timm", None) == converted.state


def test_other_models_raise():
    with pytest.raises(UserError, match="no Swin weights"):
        convert({"conv1.weight": torch.ones(3)}, "timm")
    with pytest.raises(UserError, match="unknown layout 'flax'"):
        convert(backbone().state_dict(), "flax")


def test_name_patterns_with_numbers():
    features, stages = "features.{2i+1}.{j}.*", "stages.{i}.blocks.{j}.*"
    assert rename("features.5.3.norm1.weight", features, stages) == "stages.2.blocks.3.norm1.weight"
    assert rename("features.4.3.norm1.weight", features, stages) is None
    assert rename("stages.2.blocks.3.x", stages, features) == "features.5.3.x"
    assert rename("layers.0.downsample.x", "layers.{i+1}.downsample.*", "stages.{i}.*") is None
