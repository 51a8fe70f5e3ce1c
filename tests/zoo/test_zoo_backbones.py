"""Our backbone replaces the Swin backbone in every config of the installed model zoos."""

import copy
from functools import partial

import pytest
from mmengine.config import Config

from swin_dense.analysis import parity
from swin_dense.errors import UserError

FOLDERS = sorted(
    {
        (package, path.relative_to(parity.zoo_folder(package)).parts[0])
        for package in parity.ZOOS
        for path in parity.zoo_folder(package).rglob("*swin*.py")
    }
)
# float32 rounding in a few blocks, relative to a feature map's largest value.
TOLERANCE = 1e-5


def narrow(cfg: Config) -> Config:
    """The same backbone with few channels and blocks, for a fast comparison of feature maps."""
    cfg = copy.deepcopy(cfg)
    backbone = cfg.model.backbone
    backbone.embed_dims = 8 * backbone.num_heads[0]
    backbone.depths = [min(depth, 2) for depth in backbone.depths]
    return cfg


@pytest.mark.parametrize(("package", "folder"), FOLDERS)
def test_same_names_groups_and_feature_maps(package, folder):
    seen: set[str] = set()
    for name, cfg in parity.zoo_configs([package], folder):
        backbone, optimizer = parity.comparison_key(cfg)
        if backbone not in seen:
            assert parity.different_names(cfg) == (), name
            assert max(parity.feature_map_errors(narrow(cfg))) <= TOLERANCE, name
        if backbone + optimizer not in seen:
            assert parity.different_groups(cfg) == (), name
        seen |= {backbone, backbone + optimizer}
    assert seen


@pytest.fixture
def tiny() -> Config:
    path = parity.zoo_folder("mmseg") / "swin"
    name = "swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py"
    return Config.fromfile(path / name)


def test_whole_backbone(tiny):
    """At full size, as in the zoo."""
    result = parity.compare(tiny)
    assert (result.names, result.groups) == ((), ())
    assert 0 <= max(result.evaluating, result.training) <= TOLERANCE


def test_differences_are_detected(tiny, monkeypatch):
    """Each comparison fails for a class that differs in what is compared."""
    plain, errors = parity.with_our_backbone(tiny), parity.feature_map_errors
    for key, value, compare in (
        ("window_size", 5, lambda: parity.different_names(tiny)),
        ("use_shift", False, lambda: max(errors(narrow(tiny))) > 100 * TOLERANCE),
    ):
        other = copy.deepcopy(plain)
        other.model.backbone[key] = value
        with monkeypatch.context() as patch:
            patch.setattr(parity, "with_our_backbone", partial(with_size_of, other))
            assert compare()
    other = copy.deepcopy(plain)
    other.optim_wrapper.paramwise_cfg.custom_keys.pop("norm")
    monkeypatch.setattr(parity, "with_our_backbone", lambda _: other)
    names = set(parity.different_groups(tiny))
    assert names == {name for name in parity.parameter_settings(tiny) if "norm" in name}


def with_size_of(other: Config, cfg: Config) -> Config:
    """``other`` with the width and depth of ``cfg``."""
    other = copy.deepcopy(other)
    other.model.backbone.update({k: cfg.model.backbone[k] for k in ("embed_dims", "depths")})
    return other


def test_only_openmmlabs_swin_is_replaced():
    resnet = Config({"model": {"backbone": {"type": "ResNet"}}})
    with pytest.raises(UserError, match="'ResNet', expected 'SwinTransformer'"):
        parity.with_our_backbone(resnet)
