"""What a checkpoint needs to be resumed: anything else in it is an error of one line."""

import numpy as np
import pytest
import torch
from tiny_runner import tiny_runner

from swin_dense.checkpoints import load_checkpoint
from swin_dense.engine.resume_check import as_resume_error
from swin_dense.errors import UserError

NAN = float("nan")


@pytest.fixture(scope="module", params=["epochs", "steps"])
def saved(request, tmp_path_factory):
    """Whether a training is by epochs, and its checkpoint."""
    work_dir = tmp_path_factory.mktemp(request.param)
    by_epoch = request.param == "epochs"
    tiny_runner(work_dir, by_epoch).train()
    return by_epoch, work_dir / ("epoch_1.pth" if by_epoch else "iter_2.pth")


@pytest.fixture
def resume(saved, tmp_path):
    """Trains on from the checkpoint after a change of it; returns the runner."""
    by_epoch, path = saved

    def run(change, **settings):
        content = load_checkpoint(path)
        torch.save(change(content) or content, tmp_path / "changed.pth")
        options = {"resume": True, "load_from": str(tmp_path / "changed.pth"), "length": 2}
        runner = tiny_runner(tmp_path, by_epoch, **(options | settings))
        runner.train()
        return runner

    return run


def set_in(*path_and_value):
    """A change of one entry of a checkpoint."""
    *path, key, value = path_and_value

    def change(content):
        for name in path:
            content = content[name]
        content[key] = value

    return change


def without(part):
    return lambda content: {key: value for key, value in content.items() if key != part}


GROUP, MOMENTS = ("optimizer", "param_groups", 0), ("optimizer", "state", 0)
SCHEDULER = ("param_schedulers", 0)
BAD = {
    "bare": (lambda content: content["state_dict"], "has no meta, state_dict, message_hub, optim"),
    "no optimizer": (without("optimizer"), "has no optimizer"),
    "no schedulers": (without("param_schedulers"), "has no param_schedulers, the config 1"),
    "too few schedulers": (set_in("param_schedulers", []), "has 0 param_schedulers"),
    "scheduler's kind": (set_in(*SCHEDULER, "gamma", 3), "is no LinearLR"),
    "scheduler's step": (set_in(*SCHEDULER, "last_step", -5), "before the first step"),
    "scheduler's end": (set_in(*SCHEDULER, "end", "x"), r"schedulers\[0\].end is 'x'"),
    "scheduler's rate": (set_in(*SCHEDULER, "base_values", [NAN]), "base_values is nan"),
    "empty optimizer": (set_in("optimizer", {"state": {}}), "param_groups and state"),
    "no group": (set_in("optimizer", "param_groups", [3]), "other groups of parameters"),
    "numbers": (set_in(*GROUP, "params", [0, 0]), "numbers no parameters"),
    "lr": (set_in(*GROUP, "lr", "fast"), "optimizer's lr is 'fast'"),
    "betas": (set_in(*GROUP, "betas", (0.9,)), "betas has 1 values, not 2"),
    "negative lr": (set_in(*GROUP, "lr", -1.0), "lr is -1"),
    "amsgrad": (set_in(*GROUP, "amsgrad", True), "amsgrad is True"),
    "no moment": (set_in("optimizer", "state", 0, {"step": 1}), "has no exp_avg(_sq)? of param"),
    "state": (set_in("optimizer", "state", 0, [3]), "parameter 0 is no dict"),
    "size": (set_in(*MOMENTS, "exp_avg", torch.ones(3)), "exp_avg of parameter 0 is not of the si"),
    "NaN": (set_in(*MOMENTS, "step", torch.tensor(NAN)), "step of parameter 0 is not a number"),
    "epoch": (set_in("meta", "epoch", -5), "saved at epoch -5"),
    "step": (set_in("meta", "iter", "many"), "saved at iter many"),
    "seed": (set_in("meta", "seed", "x"), "seed is 'x'"),
    "hub": (set_in("message_hub", {"log_scalars": {}}), "message_hub has no runtime_info"),
    "weights": (set_in("state_dict", "w", 3), "w in its state_dict is no tensor"),
    "other keys": (set_in("message_hub", "resumed_keys", {"a": 1, "loop_stage": []}), None),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_resumed(resume, kind):
    change, complaint = BAD[kind]
    if complaint is None:
        resume(change)
        return
    with pytest.raises(UserError, match=rf"changed\.pth cannot be resumed: .*{complaint}") as error:
        resume(change)
    assert "\n" not in str(error.value)
    assert "to start a new training from its weights: --cfg-options load_from=" in str(error.value)


def test_progress_beyond_the_end_raises(resume, saved):
    name, limit = ("epoch", 2) if saved[0] else ("iter", 4)
    with pytest.raises(
        UserError, match=f"{name} 1000000000 of {limit}: raise --epochs, or train_cfg.max_{name}"
    ):
        resume(set_in("meta", name, 10**9))


def test_finished_training_can_be_resumed(resume):
    before = {}

    def remember(content):
        before.update(content["state_dict"])

    runner = resume(remember, length=1)
    assert all(torch.equal(v, before[k]) for k, v in runner.model.state_dict().items())


def test_checkpoints_of_other_folders_are_never_removed(resume, tmp_path):
    """mmengine removes what a checkpoint names as the best one before."""
    (tmp_path / "precious").touch()
    (tmp_path / "best.pth").touch()

    def change(content):
        info = content["message_hub"]["runtime_info"]
        info |= {"best_ckpt": str(tmp_path / "x" / "precious.pth"), "keep_ckpt_ids": ["../../x"]}
        info |= {"best_ckpt_b": "/elsewhere/best.pth", "best_score": "x", "last_ckpt": [1]}
        info |= {"best_score_b": np.float64(0.5)}

    info = resume(change).message_hub.runtime_info
    assert info["best_ckpt_b"] == str(tmp_path / "best.pth")
    assert info["best_score_b"] == 0.5
    assert not {"best_ckpt", "best_score", "keep_ckpt_ids"} & info.keys()


def test_what_else_goes_wrong_in_resuming_is_one_line():
    message = r"x\.pth cannot be resumed: ValueError: a b"
    with pytest.raises(UserError, match=message), as_resume_error("x.pth"):
        raise ValueError("a\n b")


def test_one_cycle_schedules_can_be_saved_and_resumed(tmp_path):
    """Their state refers to a function, which mmengine saves."""
    settings = {
        "param_scheduler": [{"type": "OneCycleLR", "eta_max": 0.1, "total_steps": 9}],
    }
    whole = tiny_runner(tmp_path / "whole", length=2, **settings)
    whole.train()
    settings |= {"resume": True, "load_from": str(tmp_path / "whole" / "epoch_1.pth")}
    resumed = tiny_runner(tmp_path / "resumed", length=2, **settings)
    resumed.train()
    assert resumed.param_schedulers[0].state_dict() == whole.param_schedulers[0].state_dict()
    assert resumed.param_schedulers[0].last_step > 0
