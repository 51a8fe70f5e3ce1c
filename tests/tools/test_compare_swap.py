"""``tools/compare_swap.py`` on single configs; tests/zoo covers the model zoos."""

import sys
from types import ModuleType

import pytest
from mmengine.config import Config

from swin_dense import SwinTransformerV2
from swin_dense.analysis import parity

CONFIG = """
default_scope = 'mmdet'
model = dict(backbone=dict(
    type='SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)))
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1))
"""


@pytest.fixture
def configs(tmp_path):
    """Two configs with the same backbone and optimizer, and a third with another window size."""
    texts = [CONFIG, CONFIG, CONFIG.replace("embed_dims=8", "embed_dims=8, window_size=5")]
    paths = [tmp_path / f"config{i}.py" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def test_equal_backbones_share_a_row(tool, configs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # a table that is narrower than a path breaks its lines
    document = tmp_path / "docs" / "zoo.md"
    assert tool("compare_swap", *configs, "--markdown", document) == 0
    rows = [line for line in document.read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 2
    assert rows[0].startswith(f"| {configs[0]}<br>{configs[1]} | 0 | 0 |")
    assert rows[1].startswith(f"| {configs[2]} | 0 | 0 |")
    assert "and 1 more" in capsys.readouterr().out


def test_difference_is_an_error_with_the_config(tool, configs, monkeypatch, capsys):
    monkeypatch.setattr(parity, "feature_map_errors", lambda _: (0.0, 1e-3))
    assert tool("compare_swap", configs[0]) == 2
    assert f"the two backbones differ: {configs[0]}" in capsys.readouterr().err


def test_config_without_swin_is_an_error(tool, tmp_path, capsys):
    path = tmp_path / "resnet.py"
    path.write_text("model = dict(backbone=dict(type='ResNet'))")
    assert tool("compare_swap", path) == 2
    err = capsys.readouterr().err
    assert f"{path}: model.backbone.type is 'ResNet', expected 'SwinTransformer'" in err


V2 = """
default_scope = 'mmdet'
model = dict(backbone=dict(
    type='mmpretrain.SwinTransformerV2', window_size=4, out_indices=(0, 1), pad_small_map=True,
    arch=dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2), extra_norm_every_n_blocks=0)))
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1))
"""


def test_swin_v2_of_mmpretrain(tool, tmp_path, capsys):
    """Compared where mmpretrain is installed, named as missing elsewhere."""
    path = tmp_path / "v2.py"
    path.write_text(V2)
    try:
        import mmpretrain.models  # noqa: F401
    except Exception:
        assert tool("compare_swap", path) == 2
        assert "to compare with it, install mmpretrain" in capsys.readouterr().err
    else:
        assert tool("compare_swap", path) == 0
    ours = parity.with_our_backbone(Config.fromfile(path))
    assert isinstance(parity.build_backbone(ours), SwinTransformerV2)


def test_an_mmpretrain_that_does_not_work_is_named(tool, tmp_path, capsys, monkeypatch):
    """Beside transformers 4.57, mmpretrain 1.2 raises a TypeError when it is imported."""
    (tmp_path / "models.py").write_text("raise TypeError('NoneType takes no arguments')")
    package = ModuleType("mmpretrain")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "mmpretrain", package)
    monkeypatch.delitem(sys.modules, "mmpretrain.models", raising=False)
    path = tmp_path / "v2.py"
    path.write_text(V2)
    assert tool("compare_swap", path) == 2
    assert "cannot be imported (TypeError: NoneType takes no" in capsys.readouterr().err


def test_missing_config_is_an_error(tool, tmp_path, capsys):
    assert tool("compare_swap", tmp_path / "none.py") == 2
    assert "no such config" in capsys.readouterr().err
