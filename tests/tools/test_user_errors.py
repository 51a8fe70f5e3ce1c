"""A user error is one line on stderr and exit status 2, without a traceback."""

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
DETECTOR, SEGMENTOR = HERE / "tiny_detector.py", HERE / "tiny_segmentor.py"


def train_flags(shapes_root, tmp_path) -> list:
    return ["--data-root", shapes_root, "--work-dir", tmp_path / "w", "--from-scratch"]


@pytest.mark.parametrize("name", ["train", "test", "predict"])
def test_missing_config(failure, name):
    more = {"train": [], "test": ["c.pth"], "predict": ["c.pth", "i.jpg", "--out", "o"]}[name]
    if name != "train":
        torch.save({}, "c.pth")
        Path("i.jpg").touch()
    assert "no such config: configs/none.py" in failure(name, "configs/none.py", *more)


def test_similar_config_is_suggested(failure):
    assert f"did you mean {DETECTOR}?" in failure("train", HERE / "tiny_detectr.py")


def test_invalid_config(failure):
    Path("broken.py").write_text("model = dict(\n")
    assert "broken.py is not valid Python: line 1" in failure("train", "broken.py")
    Path("orphan.py").write_text("_base_ = './parent.py'\n")
    line = failure("train", "orphan.py")
    assert "orphan.py" in line
    assert "parent.py" in line


def test_config_without_training(failure):
    Path("empty.py").write_text("x = 1\n")
    assert "empty.py cannot be trained: it has no model" in failure("train", "empty.py")


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("train_cfg.max_epochs", "not of the form key=value"),
        ("model.backbone.depths=[1,2", "brackets do not match"),
        ("trian_cfg.max_epochs=3", "did you mean 'train_cfg'?"),
        ("model.backbon.depths=3", "did you mean 'backbone'?"),
        ("model.neck.in_channels.7=3", "is a list of 4"),
        ("data_root.x=3", "it has no 'x'"),
    ],
)
def test_bad_options(failure, option, complaint):
    line = failure("train", DETECTOR, "--cfg-options", option)
    assert complaint in line
    assert option.partition("=")[0] in line


def test_options_may_set_keys_that_the_config_omits(shapes_root):
    from swin_dense.engine.config.prepare import load_config

    options = {
        "model.backbone.with_cp": True,
        "randomness.seed": 3,
        "train_dataloader.dataset.indices": 2,
    }
    cfg = load_config(DETECTOR, options)
    assert cfg.model.backbone.with_cp
    assert cfg.randomness.seed == 3


def test_missing_data_root(failure):
    line = failure("train", DETECTOR, "--from-scratch", "--data-root", "/nowhere")
    assert "no such data root: /nowhere" in line


def test_missing_data(failure):
    line = failure("train", DETECTOR, "--from-scratch")
    assert "data/tiny" in line


def test_missing_or_truncated_annotation_file(failure, shapes_root, tmp_path):
    root = tmp_path / "data"
    root.symlink_to(shapes_root)
    flags = train_flags(root, tmp_path)
    key = "train_dataloader.dataset.ann_file"
    line = failure("train", DETECTOR, *flags, "--cfg-options", f"{key}=annotations/none.json")
    assert "none.json" in line
    whole = (shapes_root / "annotations" / "instances_train2017.json").read_text()
    cut = tmp_path / "cut.json"
    cut.write_text(whole[: len(whole) // 2])
    line = failure("train", DETECTOR, *flags, "--cfg-options", f"{key}={cut}")
    assert "cut.json" in line
    assert not (tmp_path / "w").exists()


def test_unavailable_pretrained_weights(failure, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    flags = ["--data-root", shapes_root, "--work-dir", tmp_path / "w"]
    line = failure("train", DETECTOR, *flags)
    assert "https://nowhere.invalid/tiny_swin.pth" in line
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / "tiny_swin-") in line
    assert "--from-scratch" in line
    key = "model.backbone.init_cfg.checkpoint"
    line = failure("train", DETECTOR, *flags, "--cfg-options", f"{key}=weights/none.pth")
    assert "weights/none.pth" in line
    assert "--from-scratch" in line


@pytest.mark.parametrize("name", ["test", "predict"])
def test_invalid_checkpoints(failure, shapes_root, tmp_path, name):
    image = next((shapes_root / "val2017").glob("*.jpg"))
    if name == "test":
        more = ["--data-root", shapes_root, "--work-dir", tmp_path / "w"]
    else:
        more = [image, "--out", tmp_path / "out"]
    assert "no such checkpoint: none.pth" in failure(name, DETECTOR, "none.pth", *more)
    Path("garbage.pth").write_bytes(b"this is no checkpoint" * 9)
    assert "garbage.pth" in failure(name, DETECTOR, "garbage.pth", *more)
    torch.save({"state_dict": {"backbone.nothing": torch.zeros(1)}}, "other.pth")
    line = failure(name, DETECTOR, "other.pth", *more)
    assert "other.pth is of another model" in line
    assert "parameters missing" in line
    assert not (tmp_path / "out").exists()


def test_checkpoint_with_one_weight_of_another_size(trained, failure, tmp_path):
    content = torch.load(trained.checkpoint, weights_only=True)
    name = next(k for k in content["state_dict"] if k.endswith("conv.weight"))
    content["state_dict"][name] = torch.zeros(3)
    torch.save(content, "one.pth")
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path / "w"]
    line = failure("test", trained.config, "one.pth", *flags)
    assert "1 of " in line
    assert f"of another size, first {name}" in line


@pytest.mark.parametrize(("device", "words"), [("gpu", "unknown device"), ("cuda:99", "cuda:99")])
def test_unavailable_devices(failure, shapes_root, tmp_path, device, words):
    flags = [*train_flags(shapes_root, tmp_path), "--device", device]
    line = failure("train", DETECTOR, *flags)
    assert words in line
    assert device in line


def test_precisions_that_a_cpu_lacks(failure, shapes_root, tmp_path):
    flags = [*train_flags(shapes_root, tmp_path), "--device", "cpu"]
    line = failure("train", DETECTOR, *flags, "--amp", "fp16")
    assert "--amp fp16 needs a GPU: use --amp bf16" in line
    assert "--tf32 needs an NVIDIA GPU" in failure("train", DETECTOR, *flags, "--tf32")
    assert "--amp: invalid choice" in failure("train", DETECTOR, *flags, "--amp", "fp17")


def test_nothing_to_resume(failure, shapes_root, tmp_path):
    flags = train_flags(shapes_root, tmp_path)
    line = failure("train", DETECTOR, *flags, "--resume", "none.pth")
    assert "no such checkpoint: none.pth" in line


def test_auto_scale_lr_without_a_base(failure, shapes_root, tmp_path):
    flags = [*train_flags(shapes_root, tmp_path), "--auto-scale-lr"]
    line = failure("train", SEGMENTOR, *flags)
    assert "auto_scale_lr" in line
    assert str(SEGMENTOR) in line


def test_unwritable_output(failure, shapes_root, tmp_path, trained):
    blocked = tmp_path / "file"
    blocked.write_text("a file")
    flags = ["--data-root", shapes_root, "--from-scratch", "--work-dir", blocked / "w"]
    assert str(blocked) in failure("train", DETECTOR, *flags)
    image = next((shapes_root / "val2017").glob("*.jpg"))
    out = ["--out", blocked]
    line = failure("predict", trained.config, trained.checkpoint, image, *out)
    assert str(blocked) in line
    assert blocked.read_text() == "a file"


def test_no_images(failure, trained, tmp_path):
    (tmp_path / "none").mkdir()
    flags = ["--out", tmp_path / "out"]
    line = failure("predict", trained.config, trained.checkpoint, tmp_path / "none", *flags)
    assert "no images in" in line
    line = failure("predict", trained.config, trained.checkpoint, tmp_path / "gone", *flags)
    assert "no such image or folder" in line


def test_unknown_type(failure, shapes_root, tmp_path):
    flags = train_flags(shapes_root, tmp_path)
    line = failure("train", DETECTOR, *flags, "--cfg-options", "model.backbone.type=SwinTransfomer")
    assert "'SwinTransfomer'" in line


def test_launcher_without_processes(failure, shapes_root, tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    flags = [*train_flags(shapes_root, tmp_path), "--launcher", "pytorch"]
    assert "torchrun" in failure("train", DETECTOR, *flags)


def test_debug_shows_the_traceback(tool, capfd, tmp_path):
    assert tool("train", tmp_path / "none.py", "--debug") == 2
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: no such config")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("model.rpn_head.nonsense=1", "'nonsense'"),
        ("model.backbone.nonsense=1", "nonsense"),
        ("model.backbone.num_heads=[3,1,2,2]", "num_heads"),
    ],
)
def test_invalid_constructor_arguments(failure, shapes_root, tmp_path, option, words):
    flags = [*train_flags(shapes_root, tmp_path), "--cfg-options", option]
    assert words in failure("train", DETECTOR, *flags)


def test_bugs_keep_their_traceback(tool, shapes_root, tmp_path):
    """An error inside a model is not a user error, and its traceback is shown."""
    flags = train_flags(shapes_root, tmp_path)
    with pytest.raises(RuntimeError, match="channels"):
        tool("train", DETECTOR, *flags, "--cfg-options", "model.neck.in_channels=[8,16,32,60]")


def test_failing_run_keeps_the_work_dir(trained, failure):
    before = sorted(p.name for p in trained.work_dir.iterdir())
    flags = ["--data-root", "/nowhere", "--work-dir", trained.work_dir, "--from-scratch"]
    failure("train", trained.config, *flags)
    assert sorted(p.name for p in trained.work_dir.iterdir()) == before
    assert os.path.getsize(trained.checkpoint) > 0
