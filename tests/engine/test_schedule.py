"""Schedules that fit the length of a training."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from tiny_runner import tiny_runner

from swin_dense.engine.schedule import fit_schedule

SCHEDULES = Path(__file__).parents[2] / "configs" / "_base_" / "schedules"
WARM_UP = {"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": 500}
STEPS = {"type": "MultiStepLR", "begin": 0, "end": 12, "milestones": [8, 11], "gamma": 0.1}
POLY = {"type": "PolyLR", "power": 1.0, "begin": 1500, "end": 160_000, "by_epoch": False}


def epochs(count: int, steps: int) -> EpochBasedTrainLoop:
    """A loop of epochs of so many steps."""
    loop = object.__new__(EpochBasedTrainLoop)
    loop._max_epochs, loop._max_iters, loop.dataloader = count, count * steps, range(steps)
    return loop


def iterations(count: int) -> SimpleNamespace:
    return SimpleNamespace(max_iters=count, dataloader=range(12))


@pytest.mark.parametrize("path", sorted(SCHEDULES.glob("*.py")), ids=lambda path: path.stem)
def test_published_schedules_stay_as_they_are(path):
    """With COCO's 117,266 images in batches of 16, and any number of ADE20K's."""
    cfg = Config.fromfile(path)
    by_epoch = "max_epochs" in cfg.train_cfg
    loop = (
        epochs(cfg.train_cfg.max_epochs, 7330) if by_epoch else iterations(cfg.train_cfg.max_iters)
    )
    assert fit_schedule(cfg.param_scheduler, loop) == (cfg.param_scheduler, "")


def test_warm_up_takes_at_most_a_tenth_of_a_short_training():
    (warm_up, steps), words = fit_schedule([WARM_UP, STEPS], epochs(12, 9))  # 18 images
    assert warm_up["end"] == 10
    assert steps == STEPS
    assert "warm-up takes 10 steps, not 500" in words
    (warm_up,), _ = fit_schedule([WARM_UP], epochs(1, 4))
    assert warm_up["end"] == 2, "mmengine's of one step never ends"


def test_warm_up_alone():
    """In epochs it is a part of the run that was meant; in steps it may be any recipe's."""
    (warm_up,), _ = fit_schedule([WARM_UP], iterations(100))
    assert warm_up["end"] == 10
    by_epoch = {**WARM_UP, "by_epoch": True, "end": 2}
    assert fit_schedule([by_epoch], epochs(4, 9)) == ([by_epoch], "")


def test_milestones_move_in_proportion():
    (_, steps), words = fit_schedule([WARM_UP, STEPS], epochs(36, 1000))
    assert steps["milestones"] == [24_000, 33_000]
    assert (steps["end"], steps["by_epoch"]) == (36_000, False)
    assert "MultiStepLR drops after 24 and 33 epochs, not 8 and 11" in words
    (_, steps), _ = fit_schedule([WARM_UP, STEPS], epochs(3, 9))
    assert steps["milestones"] == [18, 25], "between epochs too"


def test_decay_begins_where_the_warm_up_ends():
    (warm_up, poly), _ = fit_schedule([{**WARM_UP, "end": 1500}, POLY], iterations(600))
    assert warm_up["end"] == poly["begin"] == 60
    assert poly["end"] == 600
    cosine = {"type": "CosineAnnealingLR", "T_max": 95, "begin": 5, "end": 100}
    first = {**WARM_UP, "by_epoch": True, "end": 5, "convert_to_iter_based": True}
    (warm_up, cosine), _ = fit_schedule([first, cosine], epochs(10, 20))
    assert warm_up["end"] == cosine["begin"] == 20
    assert cosine["begin"] + cosine["T_max"] == cosine["end"] == 200
    assert "convert_to_iter_based" not in warm_up


def test_schedules_of_unknown_kinds_stay():
    exponential = {"type": "ExponentialLR", "gamma": 0.9, "end": 12}
    assert fit_schedule(exponential, epochs(36, 9))[0] == [exponential]
    for other in (None, {"generator": [STEPS]}):
        assert fit_schedule(other, epochs(36, 9)) == (other, "")


class Rates(Hook):
    """Notes the learning rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.rates += runner.optim_wrapper.get_lr()["lr"]


def learning_rates(runner) -> list[float]:
    """Trains; returns the learning rate of each step."""
    hook = Rates()
    runner.register_hook(hook)
    runner.train()
    return hook.rates


def test_short_training_reaches_its_learning_rate(tmp_path):
    """12 epochs of two steps, with the recipe of COCO: a warm-up of 500 left 5 % of it."""
    settings = {"length": 12, "lr": 0.01, "param_scheduler": [WARM_UP, STEPS]}
    rates = learning_rates(tiny_runner(tmp_path / "fitted", **settings))
    assert max(rates) == rates[1] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(1e-4)
    runner = tiny_runner(tmp_path / "as written", **settings)
    runner.cfg.fit_schedule = False
    assert max(learning_rates(runner)) < 0.0006


@pytest.mark.parametrize("length", [24, 6])
def test_resumed_training_has_the_schedule_of_its_start(tmp_path, length):
    settings = {"length": 24, "param_scheduler": [WARM_UP, STEPS]}
    whole = learning_rates(tiny_runner(tmp_path, **settings))
    resumed = {"resume": True, "load_from": str(tmp_path / "epoch_5.pth")}
    runner = tiny_runner(tmp_path, **{**settings, **resumed, "length": length})
    assert learning_rates(runner) == whole[10 : 2 * length]
    assert ("as the checkpoint has it" in runner.fitted_schedule) == (length == 6)


@pytest.mark.parametrize(
    "wrong", [{"end": "soon"}, {"milestones": 8}, {"milestones": ["x"]}, {"end": float("inf")}]
)
def test_values_that_are_no_places_are_left_to_mmengine(wrong):
    """Which names them when it builds the scheduler."""
    configs = [WARM_UP, STEPS | wrong]
    assert fit_schedule(configs, epochs(3, 6)) == (configs, "")
