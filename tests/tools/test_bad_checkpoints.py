"""Checkpoints that bring code, are damaged or do not fit: one line, by every way into the tools."""

import shutil
from pathlib import Path

import pytest
import torch

from swin_dense.checkpoints import load_checkpoint

pytestmark = pytest.mark.parametrize("trained", ["segmentor"], indirect=True)


@pytest.fixture
def changed(trained, tmp_path):
    """Saves the trained model's checkpoint after a change, and returns its path."""

    def save(change, name="changed.pth"):
        content = load_checkpoint(trained.checkpoint)
        content = change(content) or content
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def training(trained, tmp_path):
    """The arguments of a training that goes on for one step."""
    options = ["--cfg-options", "train_cfg.max_iters=5", "train_cfg.val_interval=9"]
    return ["train", trained.config, "--data-root", trained.data_root, *options]


def test_configs_in_checkpoints_are_never_run(trained, training, changed, tool, tmp_path):
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').close()\n"

    def change(content):
        content["meta"] |= {"config": code, "cfg": code}
        content["message_hub"]["runtime_info"]["cfg"] = code
        content["message_hub"]["resumed_keys"]["cfg"] = True

    evil = changed(change)
    image = next((trained.data_root / "val2017").glob("*.jpg"))
    work_dir = ["--work-dir", tmp_path / "w"]
    assert tool(*training, f"load_from={evil}", *work_dir, "--seed", 0) == 0
    assert tool(*training, *work_dir, "--resume", evil) == 0
    shutil.copy(evil, tmp_path / "w" / Path(trained.checkpoint).name)
    last = tmp_path / "w" / Path(trained.checkpoint).name
    (tmp_path / "w" / "last_checkpoint").write_text(str(last))
    assert tool(*training, *work_dir, "--resume") == 0
    assert tool("test", trained.config, evil, "--data-root", trained.data_root, *work_dir) == 0
    assert tool("predict", trained.config, evil, image, "--out", tmp_path / "out") == 0
    assert tool("convert_checkpoint", evil, tmp_path / "hf.pth", "--to", "openmmlab") == 0
    assert not mark.exists()
    assert code not in str(load_checkpoint(tmp_path / "hf.pth")["meta"])


def test_weights_that_are_not_finite_are_refused(trained, training, changed, failure, tmp_path):
    name = "decode_head.conv_seg.bias"

    def change(content):
        content["state_dict"][name][1] = float("inf")

    bad = changed(change)
    image = next((trained.data_root / "val2017").glob("*.jpg"))
    data, work_dir = ["--data-root", trained.data_root], ["--work-dir", tmp_path / "w"]
    backbone = f"model.backbone.init_cfg.checkpoint={bad}"
    for line in (
        failure(*training, f"load_from={bad}", *work_dir),
        failure(*training, *work_dir, "--resume", bad),
        failure(*training, backbone, "model.backbone.init_cfg.type=Pretrained", *work_dir),
        failure("test", trained.config, bad, *data, *work_dir),
        failure("predict", trained.config, bad, image, "--out", tmp_path / "out"),
        failure("convert_checkpoint", bad, tmp_path / "hf.pth", "--to", "openmmlab"),
    ):
        assert f"changed.pth has weights that are not finite, first {name}: give an earlier" in line
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "hf.pth").exists()


def test_bare_weights_cannot_be_resumed(training, changed, failure, tmp_path):
    bare = changed(lambda content: content["state_dict"])
    line = failure(*training, "--work-dir", tmp_path / "w", "--resume", bare)
    assert f"{bare} cannot be resumed: it has no meta" in line
    assert f"to start a new training from its weights: --cfg-options load_from={bare}" in line
