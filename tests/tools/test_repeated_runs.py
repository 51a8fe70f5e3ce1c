"""A training that is started again: nothing of an earlier one is lost, or mixed with it."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from swin_dense.checkpoints import cached_path, load_checkpoint


def files(work_dir: Path) -> dict[str, int]:
    """The files of a folder and below, with the times of their last change."""
    paths = [path for path in work_dir.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(work_dir)): path.stat().st_mtime_ns for path in paths}


@pytest.fixture
def earlier(trained, tmp_path):
    """A copy of a work dir in which something was trained, and the command that did so."""
    folder = tmp_path / "run"
    shutil.copytree(trained.work_dir, folder, symlinks=True)
    (folder / "epoch_9.pth").touch()
    flags = ["--data-root", trained.data_root, "--work-dir", folder, "--from-scratch", "--seed", 1]
    return folder, ["train", trained.config, *flags]


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_a_repeated_run_has_a_folder_of_its_own(earlier, tool, tmp_path, capfd):
    folder, command = earlier
    before = files(folder)
    assert tool(*command) == 0
    assert files(folder) == before
    second = tmp_path / "run_2"
    out = capfd.readouterr().out
    assert f"{folder} has another run: this one goes to {second} (--resume" in out
    assert f"checkpoint: {second / 'iter_4.pth'}, also as {second / 'last.pth'}" in out
    assert (second / "last.pth").is_file()
    best = (second / "best.pth").resolve().name
    assert best.startswith("best_mIoU_iter_")
    assert f"best checkpoint: {second / best}, also as {second / 'best.pth'}" in out


def test_overwriting_leaves_one_run(earlier, tool, trained):
    """With evaluations of its own alone, and no checkpoint of another length or metric."""
    folder, command = earlier
    (folder / "best_old_epoch_7.pth").touch()
    (folder / "notes.txt").touch()
    assert tool(*command, "--overwrite") == 0
    names = {path.name for path in folder.iterdir() if path.name.endswith(".pth")}
    best = (folder / "best.pth").resolve().name
    assert names == {trained.checkpoint.name, "last.pth", "best.pth", best}
    assert (folder / "notes.txt").is_file()
    assert (folder / trained.config.name).is_file()
    assert len(list(folder.glob("*/*.log"))) == 1
    assert load_checkpoint(folder / "last.pth")["meta"]["seed"] == 1


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_what_cannot_start_overwrites_nothing(earlier, failure):
    folder, command = earlier
    before = files(folder)
    weights = folder.parent / "bad.pth"
    weights.write_bytes(b"no checkpoint")
    option = ["--overwrite", "--cfg-options", f"load_from={weights}"]
    assert "bad.pth" in failure(*[w for w in command if w != "--from-scratch"], *option)
    after = files(folder)
    assert before.items() <= after.items()


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_a_finished_run_says_so(earlier, tool, capfd):
    folder, command = earlier
    assert tool(*command, "--resume") == 0
    path = folder / "iter_4.pth"
    expected = f"continuing from {path}: 4 of 4 iterations are done, the training is complete"
    assert expected in capfd.readouterr().out


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_a_checkpoint_of_elsewhere_is_continued_in_a_new_folder(earlier, tool, trained, tmp_path):
    folder, command = earlier
    before = files(folder)
    longer = ["--cfg-options", "train_cfg.max_iters=5", "train_cfg.val_interval=9"]
    assert tool(*command, "--resume", trained.checkpoint, *longer) == 0
    assert files(folder) == before
    second = tmp_path / "run_2"
    assert (second / "last.pth").resolve().name == "iter_5.pth"
    assert (second / trained.config.name).is_file()


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_a_job_that_is_given_twice_does_not_train_twice(earlier, failure, monkeypatch):
    """With --resume, which found nothing, because the first one had not saved yet."""
    folder, command = earlier
    monkeypatch.setattr("swin_dense.engine.config.prepare.find_checkpoint", lambda _: None)
    line = failure(*command, "--resume")
    assert f"another training has just saved {folder / 'iter_4.pth'}" in line
    assert not folder.with_name("run_2").exists()


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_a_run_that_saves_elsewhere_is_continued_in_its_folder(earlier, tool, tmp_path, capfd):
    folder, command = earlier
    shutil.move(folder / "iter_4.pth", tmp_path / "iter_4.pth")
    (folder / "epoch_9.pth").unlink()
    (folder / "last_checkpoint").write_text(str(tmp_path / "iter_4.pth"))
    assert tool(*command, "--resume") == 0
    assert f"continuing from {tmp_path / 'iter_4.pth'}: " in capfd.readouterr().out
    assert not (tmp_path / "run_2").exists()


def test_a_work_dir_is_tested_by_its_best_checkpoint(trained, tool, failure, tmp_path, capfd):
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path / "test"]
    assert tool("test", trained.config, trained.work_dir, *flags) == 0
    assert f"Weights from {trained.work_dir / 'best.pth'}" in capfd.readouterr().out
    assert "no best.pth or last.pth" in failure("test", trained.config, tmp_path, *flags)


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_weights_of_a_model_with_other_classes(trained, tool, tmp_path, capfd):
    """Its heads start untrained; nothing else that the config names is read."""
    weights = torch.load(trained.checkpoint, weights_only=False)
    head = "decode_head.conv_seg.weight"
    size = list(weights["state_dict"][head].shape)
    weights["state_dict"][head] = torch.ones(9, *size[1:])
    file = tmp_path / "nine.pth"
    torch.save(weights, file)
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path / "w"]
    option = ["--cfg-options", "train_cfg.val_interval=9"]
    assert tool("train", trained.config, *flags, "--weights", file, *option) == 0
    out = capfd.readouterr().out
    assert f"Weights from {file}" in out
    assert (
        f"of other sizes (1): {head} (9, {size[1]}, 1, 1) for ({size[0]}, {size[1]}, 1, 1);" in out
    )
    assert "missing" not in out


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_training_from_weights_on_the_web(trained, tool, tmp_path, web_folder, capfd):
    folder, address = web_folder
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path / "w"]
    flags += ["--cfg-options", "train_cfg.val_interval=9", "train_cfg.max_iters=1"]
    url = f"{address}/broken_off.pth"
    assert tool("train", trained.config, *flags, "--weights", url) == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    place = cached_path(url)
    assert f"300 of 1,000 bytes): download {url} elsewhere and put it at {place}\n" in line
    assert not list(place.parent.iterdir())
    shutil.copy(trained.checkpoint, folder / "released.pth")
    url = f"{address}/released.pth"
    for is_there in (False, True):
        assert tool("train", trained.config, *flags, "--overwrite", "--weights", url) == 0
        out = capfd.readouterr().out
        assert f"Weights from {url}" in out
        assert (f"downloading {url}" in out) != is_there


@HOOKS.register_module(force=True)
class CtrlC(Hook):
    """Sends Ctrl-C when a checkpoint is being saved."""

    def before_save_checkpoint(self, runner, checkpoint):
        if runner.iter == 1:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_ctrl_c_while_a_checkpoint_is_saved(trained, tool, tmp_path, capfd):
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = [{str(trained.config)!r}]\ncustom_hooks = [dict(type='CtrlC')]\n")
    command = ["train", config, "--data-root", trained.data_root, "--work-dir", tmp_path / "w"]
    assert tool(*command, "--from-scratch", "--save-every", 2) == 130
    err = capfd.readouterr().err
    path, how = tmp_path / "w" / "iter_2.pth", f"--work-dir {tmp_path / 'w'} --resume continues"
    assert err.splitlines() == [
        "",
        "stopping after this step, and saving: Ctrl-C again ends at once",
        f"stopped by Ctrl-C after iteration 2, saved as {path}: {how}",
    ]
    assert load_checkpoint(path)["meta"]["iter"] == 2
