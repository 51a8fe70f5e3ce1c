"""Training gives the same losses as with mmdet's Swin, step by step."""

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

STEPS = 4
BASE = """
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True, type='{type}', embed_dims=8, depths=(2, 2, 2, 2),
        num_heads=(1, 2, 2, 4), window_size=3, drop_path_rate=0.2),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_classes=2)))
"""


def build(tmp_path, kind):
    path = tmp_path / f"{kind.replace('.', '_')}.py"
    path.write_text(BASE.replace("{type}", kind))
    return MODELS.build(Config.fromfile(path).model)


def batch():
    """Two noisy images with a bright rectangle of either class."""
    g = torch.Generator().manual_seed(0)
    images, samples = [], []
    for label, box in enumerate([(4, 6, 30, 24), (12, 3, 40, 45)]):
        image = 40 * torch.randn(3, 49, 58, generator=g) + 110
        x1, y1, x2, y2 = box
        image[label, y1:y2, x1:x2] += 100
        mask = np.zeros((1, 49, 58), np.uint8)
        mask[0, y1:y2, x1:x2] = 1
        sample = DetDataSample()
        shape = (49, 58)
        sample.set_metainfo({"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)})
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([box], dtype=torch.float64),
            labels=torch.tensor([label]),
            masks=BitmapMasks(mask, *shape),
        )
        images.append(image)
        samples.append(sample)
    return {"inputs": images, "data_samples": samples}


def train(model):
    """Losses of a few AdamW steps."""
    optim = {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05}
    wrapper = build_optim_wrapper(model, {"optimizer": optim})
    model.train()
    losses = []
    for step in range(STEPS):
        torch.manual_seed(step)  # stochastic depth and the samplers of boxes
        np.random.seed(step)
        logged = model.train_step(batch(), wrapper)
        losses.append(logged["loss"].item())
    return losses


def test_training_losses_equal_mmdet(tmp_path):
    """In float64, where rounding is far below the effect of a wrong gradient.

    In float32 AdamW amplifies rounding within a few steps (it divides by small second moments).
    """
    with DefaultScope.overwrite_default_scope("mmdet"):
        theirs = build(tmp_path, "SwinTransformer").double()
        ours = build(tmp_path, "swin_dense.SwinTransformer").double()
        ours.load_state_dict(theirs.state_dict())
        expected = train(theirs)
        losses = train(ours)
    assert losses == pytest.approx(expected, rel=1e-12)
    assert losses[-1] < 0.6 * losses[0]
