"""Recipes of the rows with DeiT-S, and of the segmentors of table 3 that mmseg has."""

import pytest
from leaves import load
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import get_external_models

from swin_dense.analysis.counting import build_on_meta

# Backbone and depth, types of the heads, and names of weights in OpenMMLab's model table.
MMSEG = {
    "danet_r101_ade20k": ("ResNetV1c", 101, ["DAHead"], "resnet101_v1c"),
    "deeplabv3plus_r101_ade20k": (
        "ResNetV1c",
        101,
        ["DepthwiseSeparableASPPHead"],
        "resnet101_v1c",
    ),
    "deeplabv3plus_resnest101_ade20k": (
        "ResNeSt",
        101,
        ["DepthwiseSeparableASPPHead"],
        "resnest101",
    ),
    "deeplabv3plus_resnest200_ade20k": (
        "ResNeSt",
        200,
        ["DepthwiseSeparableASPPHead"],
        "resnest200",
    ),
    "dnl_r101_ade20k": ("ResNetV1c", 101, ["DNLHead"], "resnet101_v1c"),
    "ocrnet_r101_ade20k": ("ResNetV1c", 101, ["FCNHead", "OCRHead"], "resnet101_v1c"),
    "ocrnet_hrnet_w48_ade20k": ("HRNet", None, ["FCNHead", "OCRHead"], "msra/hrnetv2_w48"),
    "upernet_r101_ade20k": ("ResNetV1c", 101, ["UPerHead"], "resnet101_v1c"),
    "setr_t_large_ade20k": ("VisionTransformer", None, ["SETRMLAHead"], None),
}
DEIT = ["cascade_deit_s_coco", "upernet_deit_s_ade20k"]

pytestmark = pytest.mark.filterwarnings("ignore")  # options of mmseg that stay as its configs set


def listed(heads) -> list:
    return heads if isinstance(heads, list) else [heads]


@pytest.mark.parametrize("name", MMSEG)
def test_model_equals_mmseg_with_150_classes(name):
    backbone, depth, heads, weights = MMSEG[name]
    model = load(name).model
    assert (model.backbone.type, model.backbone.get("depth")) == (backbone, depth)
    assert [head.type for head in listed(model.decode_head)] == heads
    every = listed(model.decode_head) + listed(model.get("auxiliary_head", []))
    assert {head.num_classes for head in every} == {150}
    assert model.data_preprocessor.size == (512, 512)
    if weights:
        assert model.pretrained == f"open-mmlab://{weights}"
        assert get_external_models()[weights].startswith("http")


@pytest.mark.parametrize("name", MMSEG)
def test_recipe_equals_mmseg(name):
    cfg = load(name)
    setr = name.startswith("setr")
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ("SGD", 0.001 if setr else 0.01)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 0.0 if setr else 0.0005)
    (decay,) = cfg.param_scheduler
    assert (decay.type, decay.power, decay.eta_min, decay.end) == ("PolyLR", 0.9, 1e-4, 160000)
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.test_dataloader.dataset.data_root == "data/ade/ADEChallengeData2016/"


@pytest.mark.parametrize("name", [*MMSEG, "upernet_deit_s_ade20k"])
def test_data_and_hooks_equal_those_of_swin_rows(name):
    cfg, swin = load(name), load("upernet_swin_t_ade20k")
    for key in ("train_dataloader", "test_dataloader", "tta_pipeline", "val_evaluator"):
        assert cfg[key] == swin[key]
    for key in ("default_hooks", "auto_scale_lr", "custom_imports", "default_scope", "val_cfg"):
        assert cfg[key] == swin[key]


def test_hrnet_has_48_channels():
    model = load("ocrnet_hrnet_w48_ade20k").model
    widths = [list(model.backbone.extra[f"stage{i}"].num_channels) for i in (2, 3, 4)]
    assert widths == [[48, 96], [48, 96, 192], [48, 96, 192, 384]]
    fcn, ocr = model.decode_head
    assert fcn.in_channels == ocr.in_channels == widths[-1]
    assert fcn.channels == sum(widths[-1])


def test_setr_has_sliding_windows_and_a_higher_head_learning_rate():
    cfg = load("setr_t_large_ade20k")
    assert cfg.model.test_cfg == {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)}
    model = build_on_meta(cfg).requires_grad_(True)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper.to_dict())
    rates = {id(g["params"][0]): g["lr"] for g in wrapper.optimizer.param_groups}
    for key, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.01 if "head" in key else 0.001)


@pytest.mark.parametrize("name", DEIT)
def test_deit_rows_differ_from_swin_t_in_the_backbone_only(name):
    cfg, swin = load(name).to_dict(), load(name.replace("deit_s", "swin_t")).to_dict()
    for key in ("train_dataloader", "val_dataloader", "param_scheduler", "train_cfg"):
        assert cfg[key] == swin[key]
    assert cfg["optim_wrapper"]["optimizer"] == swin["optim_wrapper"]["optimizer"]
    ours, theirs = cfg["model"], swin["model"]
    for model in (ours, theirs):
        for part in ("neck", "decode_head", "auxiliary_head"):
            model.get(part, {}).pop("in_channels", None)
    backbone = ours.pop("backbone")
    assert backbone["type"] == "swin_dense.DeiT"
    assert backbone["init_cfg"]["checkpoint"] == (
        "https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth"
    )
    del theirs["backbone"]
    assert ours == theirs


@pytest.mark.parametrize("name", DEIT)
def test_embeddings_and_norms_have_no_weight_decay(name):
    cfg = load(name)
    model = build_on_meta(cfg).requires_grad_(True)
    wrapper_cfg = {**cfg.optim_wrapper.to_dict(), "type": "OptimWrapper"}  # AMP needs a GPU
    groups = build_optim_wrapper(model, wrapper_cfg).optimizer.param_groups
    names = {id(parameter): key for key, parameter in model.backbone.named_parameters()}
    free = {names.get(id(g["params"][0])) for g in groups if g["weight_decay"] == 0} - {None}
    assert free == {
        key for key in names.values() if any(p in key for p in ("norm", "pos_embed", "cls_token"))
    }
    assert {"cls_token", "pos_embed", "pyramid.0.norm.weight"} <= free
