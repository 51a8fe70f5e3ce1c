"""Checkpoints of a training: complete before anything depends on them, and before others go."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from tiny_training import runner

from swin_dense.checkpoints import load_checkpoint
from swin_dense.engine.work_dir import find_checkpoint


def checkpoints(work_dir: Path) -> set[str]:
    return {path.name for path in work_dir.glob("*.pth") if not path.is_symlink()}


def test_newest_checkpoint_has_its_name_in_the_folder(tmp_path):
    runner(tmp_path, steps=4, interval=2).train()
    assert checkpoints(tmp_path) == {"iter_2.pth", "iter_4.pth"}
    assert (tmp_path / "last_checkpoint").read_text() == "iter_4.pth"
    assert os.readlink(tmp_path / "last.pth") == "iter_4.pth"


@pytest.mark.parametrize("pointer", ["gone.pth", "iter_4.pth"])
def test_a_finished_training_is_named_when_it_is_resumed(tmp_path, pointer):
    """One that was killed after its last checkpoint and before that was named has no more steps."""
    runner(tmp_path, steps=4, interval=2).train()
    (tmp_path / "last.pth").unlink()
    (tmp_path / "last.pth").symlink_to("iter_2.pth")
    (tmp_path / "last_checkpoint").write_text(pointer)
    runner(tmp_path, steps=4, interval=2).train()
    assert (tmp_path / "last_checkpoint").read_text() == "iter_4.pth"
    assert os.readlink(tmp_path / "last.pth") == "iter_4.pth"


def test_last_is_the_newest_one_during_the_training(tmp_path):
    seen = []

    class Look(Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append(os.path.basename(os.path.realpath(tmp_path / "last.pth")))

    made = runner(tmp_path, steps=5, interval=2)
    made.register_hook(Look())
    made.train()
    assert seen == ["last.pth", "iter_2.pth", "iter_2.pth", "iter_4.pth", "iter_5.pth"]


def test_a_training_that_ends_early_is_saved_and_goes_on(tmp_path):
    """Between checkpoints it left the best one only, and nothing to resume from."""

    class End(Hook):
        def after_train_epoch(self, runner):
            runner.train_loop.stop_training = runner.epoch == 1

    settings = {"steps": 8, "interval": 3, "by_epoch": True}
    whole = runner(tmp_path / "whole", **settings)
    whole.train()
    ended = runner(tmp_path / "ended", **settings)
    ended.register_hook(End())
    ended.train()
    saved = {path for path in checkpoints(tmp_path / "ended") if "best" not in path}
    assert saved == {"iter_4.pth"}
    assert os.readlink(tmp_path / "ended" / "last.pth") == "iter_4.pth"
    resumed = runner(tmp_path / "ended", **settings)
    resumed.train()
    assert resumed.epoch == 4
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_a_work_dir_that_is_gone_is_not_made_again(tmp_path):
    class Move(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 2:
                (tmp_path / "w").rename(tmp_path / "elsewhere")

    made = runner(tmp_path / "w", steps=4, interval=2)
    made.register_hook(Move())
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "w")):
        made.train()
    assert os.listdir(tmp_path) == ["elsewhere"]
    assert checkpoints(tmp_path / "elsewhere") == {"iter_2.pth"}


@pytest.mark.parametrize("by_epoch", [False, True])
def test_a_state_is_saved_once_before_its_evaluation(tmp_path, by_epoch):
    """Resuming repeats the evaluation: a checkpoint from after it would make it count twice."""
    saved = []

    class Look(Hook):
        def before_save_checkpoint(self, runner, checkpoint):
            saved.append(runner.message_hub.runtime_info.get("best_score"))

    settings = {"interval": 1 if by_epoch else 2, "save_best": "acc", "our_loop": True}
    made = runner(tmp_path, steps=4, by_epoch=by_epoch, **settings)
    made.register_hook(Look())
    made.train()
    assert saved == [None, 1.0, 1.0, 2.0]  # the second and the last are the best checkpoints


def test_other_folders(tmp_path):
    runner(tmp_path / "w", steps=2, interval=2, out_dir=str(tmp_path / "out")).train()
    assert checkpoints(tmp_path / "out" / "w") == {"iter_2.pth"}
    assert os.readlink(tmp_path / "out" / "w" / "last.pth") == "iter_2.pth"
    assert find_checkpoint(tmp_path / "w") == str(tmp_path / "out" / "w" / "iter_2.pth")


@pytest.mark.parametrize("by_epoch", [False, True])
def test_saving_in_between(tmp_path, by_epoch):
    """The last two of these are kept, beside all others."""
    interval = 3 if by_epoch else 4
    runner(tmp_path, steps=8, by_epoch=by_epoch, interval=interval, save_every=1).train()
    kept = {"iter_6.pth", "iter_7.pth"} if not by_epoch else {"iter_5.pth", "iter_7.pth"}
    others = {"epoch_3.pth", "epoch_4.pth"} if by_epoch else {"iter_4.pth", "iter_8.pth"}
    assert checkpoints(tmp_path) == kept | others
    meta = load_checkpoint(tmp_path / "iter_7.pth")["meta"]
    assert (meta["epoch"], meta["iter"]) == (3 if by_epoch else 0, 7)


def test_an_epoch_without_a_checkpoint_is_saved_as_complete(tmp_path):
    runner(tmp_path, steps=4, by_epoch=True, interval=9, save_every=2, save_last=False).train()
    meta = load_checkpoint(tmp_path / "iter_2.pth")["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 2)


def test_resumed_run_removes_what_is_too_old(tmp_path):
    runner(tmp_path, steps=4, interval=1, save_every=1, max_keep_ckpts=2).train()
    assert checkpoints(tmp_path) == {"iter_3.pth", "iter_4.pth"}
    runner(tmp_path, steps=6, interval=1, max_keep_ckpts=2).train()
    assert checkpoints(tmp_path) == {"iter_5.pth", "iter_6.pth"}


def test_best_checkpoint_of_a_copied_folder(tmp_path):
    """It is replaced in the copy; the original keeps its own."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    runner(first, steps=2, interval=2, save_best="acc").train()
    os.system(f"cp -r {first} {copy}")
    again = runner(copy, steps=4, interval=2, save_best="acc")
    again.val_loop.evaluator.metrics[0].score = 1.0
    again.train()
    assert checkpoints(first) == {"iter_2.pth", "best_acc_iter_2.pth"}
    assert checkpoints(copy) == {"iter_2.pth", "iter_4.pth", "best_acc_iter_4.pth"}


def test_the_best_checkpoint_has_a_name(tmp_path):
    """Also if a training was killed before it could give it."""
    best = tmp_path / "best.pth"
    runner(tmp_path, steps=4, interval=2, save_best="acc").train()
    assert os.readlink(best) == "best_acc_iter_4.pth"
    best.unlink()
    again = runner(tmp_path, steps=5, interval=2, save_best="acc")
    again.val_loop.evaluator.metrics[0].score = -9.0
    again.train()
    assert os.readlink(best) == "best_acc_iter_4.pth"


def test_a_failing_save_leaves_all_that_was_there(tmp_path, monkeypatch):
    """As on a full disk: the older checkpoints, the best one and the names stay."""
    made = runner(tmp_path, steps=6, interval=2, max_keep_ckpts=1, save_best="acc")
    fsync = os.fsync

    def fail_late(descriptor):
        if (tmp_path / "best_acc_iter_2.pth").exists() and made.iter > 2:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", fail_late)
    with pytest.raises(OSError, match="No space") as caught:
        made.train()
    assert caught.value.filename == str(tmp_path / "iter_4.pth")
    assert checkpoints(tmp_path) == {"iter_2.pth", "best_acc_iter_2.pth"}
    assert find_checkpoint(tmp_path) == str(tmp_path / "iter_2.pth")
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_killed_at_any_file_operation(python, tmp_path):
    """There is always a checkpoint to continue from, no older than the last complete one."""
    python(str(Path(__file__).with_name("killed_saves.py")), str(tmp_path))
