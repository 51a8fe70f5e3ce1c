"""Our configs are the official ones, key by key."""

from pathlib import Path

import pytest

from swin_dense.analysis.paper import WEIGHTS
from swin_dense.analysis.recipes import differences, official_recipes, recipes_document

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs"
# What training and testing depend on: never different, whatever the reason.
RECIPE = ("optim_wrapper.", "param_scheduler.", "train_cfg.", "train_dataloader.dataset.pipeline.")
RECIPE += ("train_dataloader.batch_size", "model.backbone.d", "model.backbone.w", "val_evaluator.")


def test_every_released_model_has_an_official_recipe():
    assert set(official_recipes()) == set(WEIGHTS)


@pytest.mark.parametrize("stem", official_recipes())
def test_every_difference_has_a_reason(stem):
    found = differences(stem, CONFIGS)
    assert [d for d in found if not d.reason] == []
    assert [d for d in found if d.key.startswith(RECIPE)] == []
    # The values that make the recipe are there to be compared.
    values = official_recipes()[stem].values
    for key in ("optim_wrapper.optimizer.lr", "model.backbone.window_size", "train_dataloader"):
        assert any(name.startswith(key) for name in values)
    assert len(values) > 60


def test_a_changed_value_is_found(tmp_path):
    text = f"""
_base_ = {str(CONFIGS / "mask_rcnn_swin_t_coco.py")!r}
model = dict(backbone=dict(qkv_bias=False), rpn_head=dict(loss_cls=dict(loss_weight=2.0)))
optim_wrapper = dict(clip_grad=dict(max_norm=1))
"""
    (tmp_path / "mask_rcnn_swin_t_coco.py").write_text(text)
    expected = {d.key: d for d in differences("mask_rcnn_swin_t_coco", CONFIGS)}
    found = {d.key: d for d in differences("mask_rcnn_swin_t_coco", tmp_path)}
    changed = {key: (d.theirs, d.ours) for key, d in found.items() if key not in expected}
    assert changed == {
        "model.backbone.qkv_bias": (True, False),
        "model.rpn_head.loss_cls.loss_weight": (1.0, 2.0),
        "optim_wrapper.clip_grad.max_norm": (None, 1),
    }
    assert found["optim_wrapper.clip_grad.max_norm"].reason == ""


def test_document_is_up_to_date():
    text = (REPO / "docs" / "recipes.md").read_text(encoding="utf-8")
    command = "tools/reproduce.py --recipes docs/recipes.md"
    assert text == recipes_document(CONFIGS, "../configs", command)
