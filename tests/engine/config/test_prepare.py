"""Precedence of options when a config is prepared."""

import os
from pathlib import Path

import pytest
import torch

from swin_dense.engine.config import prepare
from swin_dense.engine.config.prepare import (
    RunOptions,
    TrainingOptions,
    load_config,
    prepare_test,
    prepare_training,
)
from swin_dense.errors import UserError

TOOLS = Path(__file__).parents[2] / "tools"
DETECTOR, SEGMENTOR = TOOLS / "tiny_detector.py", TOOLS / "tiny_segmentor.py"
OWN_DATA = {"ann_file": "a.json", "img_dir": "i"}


def run_options(tmp_path: Path, **changes) -> RunOptions:
    return RunOptions(**{"work_dir": tmp_path / "work", "device": "cpu", **changes})


def test_flags_override_options_of_the_config(tmp_path):
    options = {
        "data_root": "elsewhere",
        "work_dir": "elsewhere",
        "train_dataloader.dataset.data_root": "elsewhere",
        "load_from": "some.pth",
        "own_data": {"root": "elsewhere", "train": OWN_DATA, "val": OWN_DATA},
    }
    cfg = load_config(DETECTOR, options, tmp_path, True, tmp_path / "work", classes=("nut",))
    assert cfg.work_dir == str(tmp_path / "work")
    assert cfg.data_root == cfg.train_dataloader.dataset.data_root == str(tmp_path)
    assert cfg.val_evaluator.ann_file == str(tmp_path / "a.json")  # own_data, in the new root
    assert cfg.load_from is None
    assert cfg.model.backbone.init_cfg is None


def test_work_dir_of_the_config_is_the_default():
    assert load_config(DETECTOR).work_dir == "work_dirs/tiny_detector"
    assert load_config(DETECTOR, {"work_dir": "w"}).work_dir == "w"


def test_checkpoint_to_resume_is_searched_in_the_work_dir(tmp_path):
    run = run_options(tmp_path, cfg_options={"work_dir": "elsewhere"})
    checkpoint = tmp_path / "work" / "epoch_3.pth"
    write_checkpoint(checkpoint.parent, checkpoint.name)
    cfg = prepare_training(DETECTOR, run, TrainingOptions(resume="auto"))
    assert (cfg.resume, cfg.load_from) == (True, str(checkpoint))
    assert cfg.model.backbone.init_cfg is None, "it replaces pretrained weights"


def write_checkpoint(work_dir: Path, name: str) -> str:
    """A checkpoint, without weights, that is the latest of a work dir; its path."""
    work_dir.mkdir(exist_ok=True)
    torch.save({"meta": {"iter": 3}, "optimizer": {}}, work_dir / name)
    (work_dir / "last_checkpoint").write_text(str(work_dir / name))
    return str(work_dir / name)


@pytest.mark.parametrize(
    ("launcher", "variables"),
    [
        ("pytorch", {"TORCHELASTIC_MAX_RESTARTS": "2"}),
        ("slurm", {"SLURM_RESTART_COUNT": "1"}),
    ],
)
def test_runs_that_may_be_restarted_continue(tmp_path, monkeypatch, launcher, variables):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_JOB_ID", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0")
    run = run_options(tmp_path, launcher=launcher)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    earlier = tmp_path / "earlier.pth"
    earlier.touch()
    latest = write_checkpoint(tmp_path / "work", "iter_3.pth")
    (tmp_path / "work" / ".lock").write_text('{"job": "0."}')
    assert prepare_training(DETECTOR, run).get("resume") is False
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for resume in (None, "auto", str(earlier)):
        cfg = prepare_training(DETECTOR, run, TrainingOptions(resume=resume))
        assert (cfg.resume, cfg.load_from) == (True, latest)
    empty = run_options(tmp_path, launcher=launcher, work_dir=tmp_path / "new")
    named = TrainingOptions(resume=str(earlier))
    assert prepare_training(DETECTOR, empty, named).load_from == str(earlier)
    assert prepare_training(DETECTOR, empty).resume is False


def test_a_requeued_job_continues_the_run_that_it_had_begun(tmp_path, monkeypatch):
    """Its command, given again, finds the folder of another run first."""
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_JOB_ID", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    write_checkpoint(tmp_path / "work", "epoch_9.pth")
    run, overwrite = run_options(tmp_path, launcher="slurm"), TrainingOptions(overwrite=True)
    assert prepare_training(DETECTOR, run).resume is False, "it was killed before it had a folder"
    own = write_checkpoint(tmp_path / "work_2", "iter_3.pth")
    (tmp_path / "work_2" / ".lock").write_text('{"job": "0."}')
    for options in (TrainingOptions(), overwrite):
        cfg = prepare_training(DETECTOR, run, options)
        assert (cfg.resume, cfg.load_from, cfg.work_dir) == (True, own, str(tmp_path / "work_2"))


def test_resume_finds_the_latest_run(tmp_path, monkeypatch):
    """Of the runs of a config, if no folder is named; a checkpoint goes on where it is."""
    monkeypatch.chdir(tmp_path)
    Path("work_dirs").mkdir()
    plain, resume = RunOptions(device="cpu"), TrainingOptions(resume="auto")
    first = Path("work_dirs", DETECTOR.stem)
    for number, folder in enumerate([first, Path(f"{first}_2"), Path(f"{first}_3")]):
        write_checkpoint(folder, "iter_3.pth")
        os.utime(folder / "last_checkpoint", (number, number))
        (folder / (DETECTOR.name if number < 2 else "tiny_detector_3.py")).touch()
    cfg = prepare_training(DETECTOR, plain, resume)
    assert (cfg.work_dir, cfg.load_from) == (f"{first}_2", f"{first}_2/iter_3.pth")
    cfg = prepare_training(DETECTOR, plain, TrainingOptions(resume=f"{first}/iter_3.pth"))
    assert (cfg.work_dir, cfg.load_from) == (str(first), f"{first}/iter_3.pth")
    asked = RunOptions(device="cpu", work_dir=first)
    assert prepare_training(DETECTOR, asked, resume).work_dir == str(first)


def test_overwriting_that_cannot_be_meant(tmp_path, monkeypatch):
    weights = write_checkpoint(tmp_path / "work", "epoch_3.pth")
    run = run_options(tmp_path)
    with pytest.raises(UserError, match="exclude each other"):
        prepare_training(DETECTOR, run, TrainingOptions(overwrite=True, resume="auto"))
    run = run_options(tmp_path, cfg_options={"load_from": weights})
    with pytest.raises(UserError, match=f"would remove {weights}"):
        prepare_training(DETECTOR, run, TrainingOptions(overwrite=True))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    run = run_options(tmp_path, launcher="pytorch", work_dir=tmp_path / "new")
    with pytest.raises(UserError, match="torchrun restarts"):
        prepare_training(DETECTOR, run, TrainingOptions(overwrite=True))


def test_accumulated_batches_count_for_the_learning_rate(tmp_path):
    cfg = prepare_training(
        DETECTOR, run_options(tmp_path), TrainingOptions(auto_scale_lr=True, accumulate=4)
    )
    assert cfg.optim_wrapper.accumulative_counts == 4
    assert cfg.auto_scale_lr.base_batch_size == 16 / 4
    with pytest.raises(UserError, match="--accumulate 0"):
        prepare_training(DETECTOR, run_options(tmp_path), TrainingOptions(accumulate=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cfg_options": {"custom_hooks": [{"type": "EMAHook"}]}}, "EMAHook"),
        ({"compile": True}, "--compile"),
        ({"launcher": "none"}, "torchrun"),
    ],
)
def test_what_sharding_does_not_go_with(tmp_path, monkeypatch, settings, message):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    compiles = settings.pop("compile", False)
    run = run_options(tmp_path, **{"launcher": "pytorch", **settings})
    assert prepare_training(DETECTOR, run_options(tmp_path)).get("fsdp") is None
    with pytest.raises(UserError, match=f"--strategy fsdp .*{message}"):
        prepare_training(DETECTOR, run, TrainingOptions(compile=compiles, strategy="fsdp"))


def test_training_on_a_cpu(tmp_path):
    loader = {"train_dataloader.prefetch_factor": 2, "train_dataloader.persistent_workers": True}
    amp = {"optim_wrapper.type": "AmpOptimWrapper", "randomness.deterministic": True}
    run = run_options(tmp_path, cfg_options={**loader, **amp})
    cfg = prepare_training(DETECTOR, run, TrainingOptions(auto_scale_lr=True, seed=5))
    assert (cfg.device, cfg.launcher) == ("cpu", "none")
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert cfg.auto_scale_lr.enable
    assert cfg.randomness == {"seed": 5, "deterministic": True}
    assert "prefetch_factor" not in cfg.train_dataloader
    assert not cfg.train_dataloader.persistent_workers
    with pytest.raises(UserError, match="--amp fp16 needs a GPU"):
        prepare_training(DETECTOR, run, TrainingOptions(amp="fp16"))
    with pytest.raises(UserError, match="--tf32 needs an NVIDIA GPU"):
        prepare_training(DETECTOR, run_options(tmp_path, tf32=True))


def test_training_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "choose_device", lambda *_: torch.device("cuda"))
    options = {"optim_wrapper.optimizer.fused": False, "val_dataloader.pin_memory": False}
    options |= {"train_dataloader.num_workers": 2}
    cfg = prepare_training(
        DETECTOR, run_options(tmp_path, cfg_options=options), TrainingOptions(amp="fp16")
    )
    assert (cfg.device, cfg.optim_wrapper.type) == ("cuda", "AmpOptimWrapper")
    assert not cfg.optim_wrapper.optimizer.fused
    assert not cfg.val_dataloader.pin_memory
    assert cfg.train_dataloader.pin_memory
    assert cfg.train_dataloader.persistent_workers
    assert not cfg.val_dataloader.persistent_workers, "it has no workers"
    assert cfg.env_cfg.cudnn_benchmark is False, "as mmdet's default_runtime has it"


def test_compiling_needs_a_backbone(tmp_path):
    cfg = prepare_training(DETECTOR, run_options(tmp_path), TrainingOptions(compile=True))
    assert cfg.compile_backbone
    run = run_options(tmp_path, cfg_options={"model.backbone": None})
    with pytest.raises(UserError, match="has no backbone to compile"):
        prepare_training(DETECTOR, run, TrainingOptions(compile=True))


def test_hooks_are_added_unless_the_config_has_them(tmp_path):
    options = {"custom_hooks": [{"type": "swin_dense.ProgressHook", "plain_seconds": 1.0}]}
    cfg = prepare_training(DETECTOR, run_options(tmp_path, cfg_options=options))
    names = ("FiniteLossHook", "SummaryHook", "MetricsHook", "ReportHook")
    added = [{"type": f"swin_dense.{name}"} for name in names]
    assert cfg.custom_hooks == [*options["custom_hooks"], *added]


def test_testing_loads_the_checkpoint_only(tmp_path):
    checkpoint = tmp_path / "c.pth"
    checkpoint.touch()
    run = run_options(tmp_path, cfg_options={"resume": True, "load_from": "other.pth"})
    cfg = prepare_test(SEGMENTOR, checkpoint, run)
    assert (cfg.resume, cfg.load_from) == (False, str(checkpoint))
    assert cfg.train_dataloader is cfg.val_evaluator is cfg.optim_wrapper is None
    with pytest.raises(UserError, match="--tf32 needs an NVIDIA GPU"):
        prepare_test(SEGMENTOR, checkpoint, run_options(tmp_path, tf32=True))


def test_tta_wraps_the_model_without_pretrained_weights(tmp_path):
    checkpoint = tmp_path / "c.pth"
    checkpoint.touch()
    cfg = prepare_test(DETECTOR, checkpoint, run_options(tmp_path, data_root=tmp_path), tta=True)
    assert cfg.model.type == "swin_dense.InstanceTTAModel"
    assert cfg.model.module.backbone.init_cfg is None
    assert cfg.test_dataloader.dataset.data_root == str(tmp_path)
    assert cfg.test_dataloader.dataset.pipeline[-1].type == "TestTimeAug"
    with pytest.raises(UserError, match="no such checkpoint"):
        prepare_test(DETECTOR, tmp_path / "none.pth", run_options(tmp_path))


@pytest.mark.parametrize("kind", ["LoadAnnotations", "swin_dense.LoadAnnotations"])
def test_tta_loads_annotations_after_flipping(tmp_path, kind):
    checkpoint = tmp_path / "c.pth"
    checkpoint.touch()
    options = {"test_dataloader.dataset.pipeline.2.type": kind}
    run = run_options(tmp_path, data_root=tmp_path, cfg_options=options)
    *before, views = prepare_test(DETECTOR, checkpoint, run, tta=True).tta_pipeline
    assert [step.type for step in before] == ["LoadImageFromFile", "Resize"]
    assert [steps[0].type for steps in views.transforms] == ["RandomFlip", kind, "PackDetInputs"]


def test_own_data_with_data_root(tmp_path):
    """With known classes (from a checkpoint), the annotation file need not exist."""
    config = tmp_path / "own.py"
    config.write_text(
        f"_base_ = {str(TOOLS / 'tiny_detector.py')!r}\n"
        "own_data = dict(root='nowhere', train=dict(ann_file='t.json', img_dir='i'),"
        " val=dict(ann_file='v.json', img_dir='i'))\n"
    )
    cfg = load_config(config, data_root=tmp_path, classes=("nut", "fig"))
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    assert cfg.train_dataloader.dataset.data_root == str(tmp_path)
    assert cfg.val_evaluator.ann_file == str(tmp_path / "v.json")
