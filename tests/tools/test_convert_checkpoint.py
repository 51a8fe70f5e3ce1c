"""``tools/convert_checkpoint.py``, and its files in training and testing."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swin_dense import SwinTransformer
from swin_dense.checkpoints import TARGETS, convert, find_backbone, weights_of

SMALL = {"embed_dims": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 3}


@pytest.fixture(scope="module")
def run(tool):
    """Runs the tool with arguments."""
    return lambda *args: tool("convert_checkpoint", *args)


@pytest.fixture
def mistake(failure):
    """The tool's error message for some arguments."""
    return partial(failure, "convert_checkpoint")


def backbone_file(path: Path) -> dict:
    state = SwinTransformer(**SMALL).state_dict()
    torch.save(state, path)
    return state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("to", TARGETS)
def test_round_trip_through_files(run, tmp_path, capfd, to, suffix):
    state = backbone_file(tmp_path / "in.pth")
    between, back = tmp_path / f"between{suffix}", tmp_path / "back.pth"
    assert run(tmp_path / "in.pth", between, "--to", to) == 0
    assert f"in.pth (openmmlab layout) -> {between} ({to} layout)" in capfd.readouterr().out
    assert run(between, back, "--to", "openmmlab") == 0
    again = torch.load(back, weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_what_is_said(run, tmp_path, capfd):
    backbone_file(tmp_path / "in.pth")
    assert run(tmp_path / "in.pth", tmp_path / "out.safetensors", "--to", "timm") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "not in timm models" in out
    assert "layers.1.downsample.norm.weight" in load_file(tmp_path / "out.safetensors")


def last_metrics(work_dir: Path) -> dict:
    (newest,) = work_dir.glob("*/metrics.json")
    return json.loads(newest.read_text())[-1]["metrics"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_whole_model_in_the_official_layout_has_the_same_metrics(
    run, tool, trained, tmp_path, capfd, suffix
):
    official = tmp_path / f"official{suffix}"
    assert run(trained.checkpoint, official, "--to", "official") == 0
    assert "heads included" in capfd.readouterr().out
    flags = ["--data-root", trained.data_root]
    for name, file in (("a", trained.checkpoint), ("b", official)):
        assert tool("test", trained.config, file, *flags, "--work-dir", tmp_path / name) == 0
    assert last_metrics(tmp_path / "a") == last_metrics(tmp_path / "b")
    out = capfd.readouterr().out
    assert out.count("Weights from") == 2  # one report for each load
    assert f"Weights from {official} (official layout)" in out
    if suffix == ".pth":
        meta = torch.load(official, weights_only=True)["meta"]
        assert meta["dataset_meta"]["classes"]


def test_training_starts_from_a_classifier_in_any_layout(run, tool, trained, tmp_path, capfd):
    found = find_backbone(weights_of(torch.load(trained.checkpoint, weights_only=False)))
    torch.save(convert(found.state, "hf").state, tmp_path / "hf.pth")
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path / "w"]
    options = [f"load_from={tmp_path / 'hf.pth'}", "model.backbone.init_cfg=None"]
    assert tool("train", trained.config, *flags, "--cfg-options", *options) == 0
    out = capfd.readouterr().out
    assert out.count("Weights from") == 1
    assert "(hf layout)" in out
    assert "these start untrained" in out


def test_pretrained_weights_are_reported_on_the_terminal(tool, trained, tmp_path, capfd):
    if trained.kind == "segmentor":
        pytest.skip("its config has no pretrained weights")
    found = find_backbone(weights_of(torch.load(trained.checkpoint, weights_only=False)))
    torch.save(convert(found.state, "torchvision").state, tmp_path / "tv.pth")
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path / "w"]
    option = f"model.backbone.init_cfg.checkpoint={tmp_path / 'tv.pth'}"
    assert tool("train", trained.config, *flags, "--cfg-options", option) == 0
    out = capfd.readouterr().out
    assert out.count(f"Weights from {tmp_path / 'tv.pth'} (torchvision layout)") == 1
    assert out.count("Weights from") == 1


def test_weights_of_another_size_raise_in_training(tool, trained, tmp_path, capfd):
    wide = SMALL | {"depths": (1, 2, 1, 1), "embed_dims": 16}
    torch.save(SwinTransformer(**wide).state_dict(), tmp_path / "other.pth")
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path / "w"]
    options = [f"load_from={tmp_path / 'other.pth'}", "model.backbone.init_cfg=None"]
    assert tool("train", trained.config, *flags, "--cfg-options", *options) == 2
    err = capfd.readouterr().err
    assert "other.pth is of another model" in err
    assert "of another size, first patch_embed.projection.weight" in err


def test_user_errors(mistake, tmp_path):
    assert "weights none.pth are missing" in mistake("none.pth", "out.pth", "--to", "timm")
    backbone_file(tmp_path / "in.pth")
    assert "invalid choice: 'flax'" in mistake("in.pth", "out.pth", "--to", "flax")
    assert "out.txt has no known format" in mistake("in.pth", "out.txt", "--to", "timm")
    assert "no such folder: gone" in mistake("in.pth", "gone/out.pth", "--to", "timm")
    if Path("/proc").is_dir():  # not even root can write there
        assert "cannot write /proc/out.pth" in mistake("in.pth", "/proc/out.pth", "--to", "timm")
    torch.save({"conv1.weight": torch.ones(1)}, "resnet.pth")
    line = mistake("resnet.pth", "out.pth", "--to", "timm")
    assert "cannot convert resnet.pth: these are no Swin weights" in line
    Path("cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert "cut.safetensors is cut off" in mistake("cut.safetensors", "out.pth", "--to", "timm")
    assert not Path("out.pth").exists()


def test_existing_files_are_not_overwritten(mistake, run, tmp_path):
    backbone_file(tmp_path / "in.pth")
    Path("out.pth").write_text("precious")
    assert "out.pth exists" in mistake("in.pth", "out.pth", "--to", "timm")
    assert "in.pth exists" in mistake("in.pth", "in.pth", "--to", "timm")
    assert Path("out.pth").read_text() == "precious"
    assert run("in.pth", "out.pth", "--to", "timm", "--overwrite") == 0
    assert "layers.1.downsample.norm.weight" in torch.load("out.pth", weights_only=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pth", "out.pth"]
