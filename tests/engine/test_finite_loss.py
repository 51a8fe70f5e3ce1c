"""A training whose loss is not finite stops with one line, and keeps the last good checkpoint."""

import pytest
import torch
from mmengine.hooks import Hook
from tiny_runner import tiny_runner

from swin_dense.checkpoints import load_checkpoint
from swin_dense.engine.finite_loss import FiniteLossHook
from swin_dense.errors import UserError


class Spoil(Hook):
    """Makes the loss of some iterations NaN; with ``weights`` the weights too."""

    def __init__(self, iterations, weights=False):
        self.iterations, self.weights = iterations, weights

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        bad = runner.iter + 1 in self.iterations
        if bad and self.weights:
            runner.model.layer.weight.data.fill_(float("inf"))
        nan = torch.tensor(float("nan") if bad else 0.0)
        runner.model.forward = lambda x, mode: {"loss": runner.model.layer(x).mean() + nan}


def train(work_dir, spoil, **settings):
    runner = tiny_runner(work_dir, custom_hooks=[spoil, FiniteLossHook()], **settings)
    runner.train()


@pytest.mark.parametrize("by_epoch", [True, False])
def test_twenty_steps_in_a_row_stop_the_training(tmp_path, by_epoch):
    with pytest.raises(UserError) as error:
        train(tmp_path, Spoil(range(8, 99)), by_epoch=by_epoch, length=50)
    text = str(error.value)
    assert "\n" not in text
    assert "the loss is not finite since iteration 8:" in text
    assert "the last good checkpoint is" in text
    newest = f"epoch_{13}.pth" if by_epoch else "iter_26.pth"
    assert newest in text  # saved before the 27th step, with finite weights
    assert load_checkpoint(tmp_path / newest)["meta"]["iter"] == 26


def test_accumulation_counts_steps_of_the_optimizer(tmp_path):
    hooks = [Spoil(range(1, 99)), FiniteLossHook(patience=3)]
    runner = tiny_runner(tmp_path, by_epoch=False, length=9, custom_hooks=hooks)
    runner.optim_wrapper["accumulative_counts"] = 4
    with pytest.raises(UserError, match=r"since iteration 1: .*last good checkpoint is .*iter_10"):
        runner.train()


def test_single_steps_do_not_stop_a_training(tmp_path):
    spoil = Spoil([*range(1, 20), *range(21, 40)])
    train(tmp_path, spoil, by_epoch=False, length=25)
    assert (tmp_path / "iter_50.pth").is_file()


@pytest.mark.parametrize("first", [1, 4])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, first):
    with pytest.raises(UserError) as error:
        train(tmp_path, Spoil([first], weights=True), length=9)
    last = f"the last good checkpoint is {tmp_path / 'epoch_1.pth'}"
    expected = "no checkpoint was saved before" if first == 1 else last
    assert "the weights are not finite any more, first layer.weight: lower " in str(error.value)
    assert str(error.value).endswith(expected)
    assert [p.name for p in tmp_path.glob("*.pth")] == ([] if first == 1 else ["epoch_1.pth"])
