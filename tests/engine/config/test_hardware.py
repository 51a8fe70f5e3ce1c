"""Adapting a run to the hardware: device, precision, workers, batch size, processes."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from swin_dense.engine.config.hardware import (
    adapt_workers,
    advise_learning_rate,
    allow_tf32,
    scale_learning_rate,
    set_precision,
    use_gpu,
)
from swin_dense.engine.precision import precision_in_words, precision_of, trained_precision
from swin_dense.engine.terminal import console as terminal
from swin_dense.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    lines: list[str] = []
    from swin_dense.engine.config import hardware

    monkeypatch.setattr(hardware, "notify_user", lines.append)
    return lines


def config(**wrapper) -> Config:
    return Config({"optim_wrapper": {"type": "OptimWrapper", **wrapper}, "model": {}})


def resumed(tmp_path: Path, checkpoint: dict, **wrapper) -> Config:
    """A config that resumes a checkpoint with this content."""
    torch.save(checkpoint, tmp_path / "c.pth")
    cfg = config(**wrapper)
    cfg.resume, cfg.load_from = True, str(tmp_path / "c.pth")
    return cfg


@pytest.fixture
def gpu(monkeypatch) -> torch.device:
    """A GPU with bfloat16, as far as a config can tell."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    return CUDA


@pytest.fixture
def old_gpu(monkeypatch) -> torch.device:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    return CUDA


def test_mixed_precision_falls_back_on_a_cpu(messages):
    wrapper = {"type": "AmpOptimWrapper", "loss_scale": "dynamic", "dtype": "float16"}
    cfg = config(**wrapper, clip_grad={"max_norm": 1})
    set_precision(cfg, CPU)
    assert cfg.optim_wrapper == {"type": "OptimWrapper", "clip_grad": {"max_norm": 1}}
    assert len(messages) == 1
    set_precision(cfg, CPU)
    assert len(messages) == 1


@pytest.mark.parametrize("kind", [AmpOptimWrapper, "mmengine.AmpOptimWrapper"])
def test_wrappers_may_be_named_in_full_or_be_classes(kind, messages):
    cfg = config(type=kind)
    assert precision_in_words(cfg) == "fp16 (autocast, with loss scaling)"
    set_precision(cfg, CPU)
    assert cfg.optim_wrapper == FP32
    assert precision_in_words(cfg) == "float32"
    assert len(messages) == 1


def test_the_precision_of_a_config_stays_on_a_gpu(gpu, messages):
    wrapper = {"type": "AmpOptimWrapper", "dtype": "bfloat16", "loss_scale": 512.0}
    cfg = config(**wrapper)
    set_precision(cfg, gpu)
    assert cfg.optim_wrapper == wrapper
    assert not messages


FP16 = {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": "dynamic"}
BF16 = {"type": "swin_dense.Bf16OptimWrapper"}
FP32 = {"type": "OptimWrapper"}


@pytest.mark.parametrize(
    ("amp", "on_cpu", "on_old_gpu", "on_gpu"),
    [
        (None, FP32, FP32, FP32),
        ("fp32", FP32, FP32, FP32),
        ("auto", BF16, FP16, BF16),
        ("fp16", None, FP16, FP16),
        ("bf16", BF16, None, BF16),
    ],
)
def test_amp(amp, on_cpu, on_old_gpu, on_gpu, request):
    fixtures = [(None, on_cpu), ("old_gpu", on_old_gpu), ("gpu", on_gpu)]
    for fixture, expected in fixtures:
        device = request.getfixturevalue(fixture) if fixture else CPU
        cfg = config()
        if expected is None:
            with pytest.raises(UserError, match=f"--amp {amp} .*: use --amp (bf16|fp16)$"):
                set_precision(cfg, device, amp)
        else:
            set_precision(cfg, device, amp)
            assert cfg.optim_wrapper == expected
            assert precision_of(cfg) in (amp, "fp32", "fp16", "bf16")


def test_amp_takes_the_dtype_that_the_config_names(gpu):
    for name, expected in (("float16", "fp16"), ("bfloat16", "bf16"), (None, "bf16")):
        cfg = config(type="AmpOptimWrapper", dtype=name, loss_scale=512.0)
        set_precision(cfg, gpu, "auto")
        assert precision_of(cfg) == expected
        assert cfg.optim_wrapper.get("loss_scale") == (512.0 if expected == "fp16" else None)


@pytest.mark.parametrize("wrapper", [FP32, FP16, BF16])
@pytest.mark.parametrize("before", ["fp32", "fp16", "bf16"])
def test_a_resumed_training_keeps_its_precision(gpu, messages, tmp_path, wrapper, before):
    """Whatever the config asks for; and ``--amp`` alone turns mixed precision on in any case."""
    cfg = resumed(tmp_path, {"meta": {"precision": before}, "optimizer": {}}, **wrapper)
    set_precision(cfg, gpu)
    assert precision_of(cfg) == before
    assert not messages
    set_precision(cfg, gpu, "auto")
    assert precision_of(cfg) == ("bf16" if before == "fp32" else before)
    assert len(messages) == (before == "fp32")


def test_a_resumed_training_may_change_its_precision(gpu, messages, tmp_path):
    cfg = resumed(tmp_path, {"meta": {"precision": "fp16"}, "optimizer": {"loss_scaler": {}}})
    set_precision(cfg, gpu, "bf16")
    assert precision_of(cfg) == "bf16"
    assert messages == ["the checkpoint was trained in fp16, this run continues in bf16"]
    cfg = resumed(tmp_path, {"meta": {"precision": "fp16"}, "optimizer": {"loss_scaler": {}}})
    set_precision(cfg, CPU)
    assert precision_of(cfg) == "fp32"
    assert "fp16 is not supported on this cpu" in messages[1]


def test_checkpoints_of_other_tools(gpu, tmp_path):
    """They tell of fp16 by the state of the loss scaler; without one the config decides."""
    cfg = resumed(tmp_path, {"meta": {}, "optimizer": {"loss_scaler": {"scale": 1.0}}})
    set_precision(cfg, gpu)
    assert precision_of(cfg) == "fp16"
    for content in ({"meta": {}, "optimizer": {}}, {"state_dict": {}}):
        cfg = resumed(tmp_path, content, type="AmpOptimWrapper")
        set_precision(cfg, gpu)
        assert cfg.optim_wrapper == {"type": "AmpOptimWrapper"}
    (tmp_path / "c.pth").write_text("no checkpoint")
    assert trained_precision(tmp_path / "c.pth") is None


def test_tf32_needs_a_gpu_that_has_it(gpu, messages):
    cfg = config()
    allow_tf32(cfg, gpu)
    assert cfg.env_cfg == {"tf32": True}
    with pytest.raises(UserError, match="--tf32 needs an NVIDIA GPU"):
        allow_tf32(cfg, CPU)


def test_tf32_needs_a_new_gpu(old_gpu):
    with pytest.raises(UserError, match=r"capability 8\.0"):
        allow_tf32(config(), old_gpu)


def gpu_config(**more) -> Config:
    loader = {"num_workers": 2}
    optimizer = {"type": "AdamW", "lr": 1e-3}
    loaders = {f"{split}_dataloader": dict(loader) for split in ("train", "val")}
    return Config({**config(optimizer=optimizer).to_dict(), **loaders, **more})


def test_what_is_faster_on_a_gpu_is_filled_in():
    cfg = gpu_config()
    use_gpu(cfg, CUDA)
    assert cfg.optim_wrapper.optimizer.fused
    for split in ("train", "val"):
        loader = cfg[f"{split}_dataloader"]
        assert loader == {"num_workers": 2, "pin_memory": True, "persistent_workers": True}
    assert cfg.env_cfg == {"cudnn_benchmark": False}


def test_a_cpu_changes_nothing():
    cfg = gpu_config()
    use_gpu(cfg, CPU)
    assert cfg.to_dict() == gpu_config().to_dict()


@pytest.mark.parametrize("own", [{"fused": False}, {"foreach": True}, {"capturable": True}])
def test_the_config_may_choose_the_kernels_of_its_optimizer(own):
    cfg = gpu_config()
    cfg.optim_wrapper.optimizer.update(own)
    use_gpu(cfg, CUDA)
    assert cfg.optim_wrapper.optimizer == {"type": "AdamW", "lr": 1e-3, **own}


def test_other_optimizers_are_left_alone():
    for optimizer in ({"type": "SGD", "lr": 1.0}, {"type": "Lion", "lr": 1.0}):
        cfg = config(optimizer=dict(optimizer))
        use_gpu(cfg, CUDA)
        assert cfg.optim_wrapper.optimizer == optimizer
    several = Config({"optim_wrapper": {"constructor": "Other"}, "model": {}})
    use_gpu(several, CUDA)
    assert several.optim_wrapper == {"constructor": "Other"}


def test_the_config_may_choose_how_batches_are_loaded():
    own = {"pin_memory": False, "persistent_workers": False}
    cfg = gpu_config(test_dataloader=dict(own), env_cfg={"cudnn_benchmark": True})
    use_gpu(cfg, CUDA)
    assert cfg.test_dataloader == own
    assert cfg.env_cfg == {"cudnn_benchmark": True}


def test_convolutions_are_timed_where_crops_have_one_size():
    crops = {"data_preprocessor": {"size": (512, 512)}}
    for scope, model, expected in (
        ("mmseg", crops, True),
        ("mmseg", {}, False),
        ("mmdet", crops, False),
    ):
        cfg = gpu_config(default_scope=scope, model=model)
        use_gpu(cfg, CUDA)
        assert cfg.env_cfg.cudnn_benchmark is expected


def test_fused_adamw_trains_as_the_plain_one():
    """And gradients are clipped by foreach functions, which nothing asks for."""
    weights = []
    for more in ({}, {"fused": True}):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
        wrapper = {
            "type": "OptimWrapper",
            "optimizer": {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.1, **more},
            "clip_grad": {"max_norm": 0.1},
        }
        optimizer = build_optim_wrapper(model, wrapper)
        with OperatorNames() as called:
            for _ in range(10):
                optimizer.update_params(model(torch.randn(5, 8)).square().mean())
        assert {"aten::_foreach_norm", "aten::_foreach_mul_"} <= called.names
        assert ("aten::_fused_adamw_" in called.names) == bool(more)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


class OperatorNames(TorchDispatchMode):
    """Within it, ``names`` are those of the operators that ran."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_loaders_without_workers_are_not_persistent():
    loader = {"num_workers": 0, "persistent_workers": True, "prefetch_factor": 2}
    cfg = Config({"train_dataloader": loader, "val_dataloader": {**loader, "num_workers": 2}})
    adapt_workers(cfg)
    assert cfg.train_dataloader == {"num_workers": 0, "persistent_workers": False}
    assert cfg.val_dataloader.persistent_workers


def with_batches(size: int, accumulate: int = 1) -> Config:
    """A config whose learning rate, 1e-4, is for batches of 16."""
    cfg = config(optimizer={"lr": 1e-4}, accumulative_counts=accumulate)
    cfg.auto_scale_lr, cfg.train_dataloader = {"base_batch_size": 16}, {"batch_size": size}
    return cfg


def test_advice_on_the_learning_rate_names_both_numbers():
    many = "learning rate 0.0001, for batches of 16: --auto-scale-lr makes it"
    assert advise_learning_rate(with_batches(2), 90_000) == f"{many} 1.25e-05"
    assert advise_learning_rate(with_batches(64), 100) == f"{many} 0.0004"
    # In a short training, a smaller step would only learn less.
    assert advise_learning_rate(with_batches(2), 108) == "learning rate 0.0001"
    assert advise_learning_rate(with_batches(4, accumulate=4), 90_000) == "learning rate 0.0001"


@pytest.mark.parametrize(("size", "accumulate"), [(4, 1), (2, 2)])
def test_scaled_learning_rate_is_told(size, accumulate):
    cfg = with_batches(size, accumulate)
    scale_learning_rate(cfg, "x.py")
    words = "learning rate 2.5e-05 (scaled from 0.0001, batch 16 to 4)"
    assert advise_learning_rate(cfg, 108) == words


def test_only_the_first_process_prints(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    terminal.notify_user("hidden")
    monkeypatch.setenv("RANK", "0")
    terminal.notify_user("shown")
    assert capsys.readouterr().out == "shown\n"
