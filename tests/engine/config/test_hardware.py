"""Adapting a run to the hardware: device, precision, workers, batch size, processes."""

import pytest
import torch
from mmengine.config import Config

from swin_dense.engine.config.hardware import (
    adapt_workers,
    advise_learning_rate,
    scale_learning_rate,
    set_precision,
)
from swin_dense.engine.launch import choose_device, on_first_process
from swin_dense.engine.terminal import console as terminal
from swin_dense.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    lines: list[str] = []
    from swin_dense.engine.config import hardware

    monkeypatch.setattr(hardware, "notify_user", lines.append)
    return lines


def test_mixed_precision_falls_back_on_a_cpu(messages):
    wrapper = {"type": "AmpOptimWrapper", "loss_scale": "dynamic", "dtype": "float16"}
    cfg = Config({"optim_wrapper": {**wrapper, "clip_grad": {"max_norm": 1}}})
    set_precision(cfg, CPU)
    assert cfg.optim_wrapper == {"type": "OptimWrapper", "clip_grad": {"max_norm": 1}}
    assert len(messages) == 1
    set_precision(cfg, CPU)
    assert len(messages) == 1


def test_mixed_precision_stays_on_a_gpu(messages):
    cfg = Config({"optim_wrapper": {"type": "OptimWrapper"}})
    set_precision(cfg, torch.device("cuda"), amp=True)
    set_precision(cfg, torch.device("cuda"))
    assert cfg.optim_wrapper == {"type": "AmpOptimWrapper", "loss_scale": "dynamic"}
    assert not messages


def test_amp_on_a_cpu_raises():
    with pytest.raises(UserError, match="needs a GPU"):
        set_precision(Config({"optim_wrapper": {}}), CPU, amp=True)


def test_loaders_without_workers_are_not_persistent():
    loader = {"num_workers": 0, "persistent_workers": True, "prefetch_factor": 2}
    cfg = Config({"train_dataloader": loader, "val_dataloader": {**loader, "num_workers": 2}})
    adapt_workers(cfg)
    assert cfg.train_dataloader == {"num_workers": 0, "persistent_workers": False}
    assert cfg.val_dataloader.persistent_workers


def test_user_is_notified_of_another_batch_size(messages):
    cfg = Config({"auto_scale_lr": {"base_batch_size": 16}, "train_dataloader": {"batch_size": 2}})
    advise_learning_rate(cfg)
    assert "16" in messages[0]
    assert "--auto-scale-lr" in messages[0]
    scale_learning_rate(cfg, "x.py")
    advise_learning_rate(cfg)
    assert len(messages) == 1
    assert cfg.auto_scale_lr.enable


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "", "CPU"])
def test_unknown_devices_raise(name):
    with pytest.raises(UserError, match="unknown device"):
        choose_device(name)


def test_available_devices():
    assert choose_device("cpu").type == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    with pytest.raises(UserError, match="cuda:99"):
        choose_device("cuda:99")


def test_errors_of_the_first_process_are_raised():
    def fail():
        raise UserError("how to fix it")

    with pytest.raises(UserError, match="how to fix it"):
        on_first_process(fail)


def test_only_the_first_process_prints(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    terminal.notify_user("hidden")
    monkeypatch.setenv("RANK", "0")
    terminal.notify_user("shown")
    assert capsys.readouterr().out == "shown\n"
