"""Student and teacher: their modes, and the weights that they start from."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from swin_dense import SwinTransformer
from swin_dense.checkpoints import convert, convert_checkpoint, find_backbone, load_converted
from swin_dense.checkpoints.loading import LoadReport

REPO = Path(__file__).resolve().parents[3]
WIDTH = 8

pytestmark = pytest.mark.filterwarnings("ignore")  # options of mmdet that stay as its configs set


@pytest.fixture(scope="module")
def cfg() -> Config:
    """The config with a tiny detector."""
    cfg = Config.fromfile(REPO / "configs" / "soft_teacher_swin_t_coco.py")
    detector = cfg.model.detector
    del detector.backbone["arch"]
    sizes = {"embed_dims": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
    detector.backbone.update(**sizes, drop_path_rate=0.9, init_cfg=None)
    detector.neck.update(in_channels=[8, 16, 32, 64], out_channels=WIDTH)
    detector.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
    detector.roi_head.bbox_roi_extractor.out_channels = WIDTH
    detector.roi_head.bbox_head.update(in_channels=WIDTH, fc_out_channels=16)
    return cfg


def build(model: dict) -> nn.Module:
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(copy.deepcopy(model))


def test_teacher_is_never_in_training_mode(cfg):
    """So it sees the same in an image twice, in spite of stochastic depth; mmdet's does not."""
    model, image = build(cfg.model).train(), torch.randn(1, 3, 64, 64)
    assert model.student.backbone.training
    assert not any(module.training for module in model.teacher.modules())
    assert torch.equal(*(model.teacher.backbone(image)[3] for _ in range(2)))
    mmdets = build({**cfg.model, "type": "SoftTeacher"}).train()
    assert not torch.equal(*(mmdets.teacher.backbone(image)[3] for _ in range(2)))
    assert not any(p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize("layout", ["openmmlab", "official"])
def test_both_start_from_a_plain_detector(cfg, layout):
    plain, model = build(cfg.model.detector), build(cfg.model)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    state = (
        plain.state_dict() if layout == "openmmlab" else convert(plain.state_dict(), layout).state
    )
    converted, report = convert_checkpoint(model, {"state_dict": state, "meta": {}}, "plain.pth")
    load_converted(model, converted, report, exact=True)
    for part in (model.student, model.teacher):
        for name, parameter in plain.named_parameters():
            assert torch.equal(parameter, part.get_parameter(name))


def test_checkpoint_gives_the_teacher(cfg):
    """To a plain detector, to a backbone, and converted; to the model itself it gives both."""
    model = build(cfg.model)
    for parameter in model.parameters():
        nn.init.normal_(parameter.data)
    state = model.state_dict()
    plain, again = build(cfg.model.detector), build(cfg.model)
    for target in (plain, again):
        converted, report = convert_checkpoint(target, {"state_dict": dict(state)}, "soft.pth")
        load_converted(target, converted, report, exact=True)
        assert isinstance(report, LoadReport)
    for name, parameter in model.teacher.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
    found = find_backbone(state)
    assert found.prefix == "teacher.backbone."
    backbone = cfg.model.detector.backbone
    sizes = {k: v for k, v in backbone.items() if k not in ("type", "init_cfg")}
    own = SwinTransformer(**sizes)
    own.load_state_dict(state)
    weight = "stages.0.blocks.0.attn.w_msa.qkv.weight"
    assert torch.equal(own.state_dict()[weight], state[f"teacher.backbone.{weight}"])
    neck = "neck.fpn_convs.0.conv.weight"
    assert torch.equal(convert(state, "openmmlab").state[neck], state[f"teacher.{neck}"])
