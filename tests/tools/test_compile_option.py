"""``tools/train.py --compile``: the backbone of a real detector and segmentor, compiled."""

import json
from pathlib import Path

import torch
from torch._dynamo.utils import counters

from swin_dense.checkpoints import load_checkpoint


def losses(work_dir: Path) -> list[float]:
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    return [r["loss"] for r in map(json.loads, log.read_text().splitlines()) if "loss" in r]


def test_a_compiled_backbone_trains_as_before(trained, tool, tmp_path):
    """In a graph to train and one to evaluate, here run as they are; no parameter is renamed."""
    torch._dynamo.reset()
    counters.clear()
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path, "--from-scratch"]
    flags += ["--seed", 0, "--compile", "--cfg-options", "compile_backbone.backend=eager"]
    assert tool("train", trained.config, *flags) == 0
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    torch.testing.assert_close(losses(tmp_path), losses(trained.work_dir), rtol=1e-4, atol=0)
    ours, expected = (
        load_checkpoint(path)["state_dict"] for path in (tmp_path / "last.pth", trained.checkpoint)
    )
    assert list(ours) == list(expected)
