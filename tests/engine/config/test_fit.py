"""Flags of ``tools/train.py`` that fit a run: each the same as an edit of the config."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config

from swin_dense.engine.config.fit import FitOptions, resize_images
from swin_dense.engine.config.prepare import RunOptions, TrainingOptions, prepare_training
from swin_dense.errors import UserError
from swin_dense_cli.train import make_parser

REPO = Path(__file__).parents[3]
TOOLS = REPO / "tests" / "tools"
DETECTOR, SEGMENTOR = TOOLS / "tiny_detector.py", TOOLS / "tiny_segmentor.py"
BOTH = pytest.mark.parametrize("config", [DETECTOR, SEGMENTOR], ids=lambda path: path.stem)
EMA = {"type": "EMAHook", "ema_type": "MomentumAnnealingEMA", "momentum": 0.0002, "gamma": 100}
EMA |= {"update_buffers": True, "priority": 49}
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
BACKEND = "{}VisBackend"


def prepared(config: Path, tmp_path: Path, *flags: str, **options) -> Config:
    """The config of a training with these flags, read as the command line reads them."""
    args = vars(make_parser().parse_args([str(config), *flags]))
    fit = FitOptions(**{name: args[name] for name in FitOptions.__dataclass_fields__})
    run = RunOptions(work_dir=tmp_path / "work", device="cpu", cfg_options=options.pop("cfg", None))
    return prepare_training(config, run, TrainingOptions(fit=fit, **options))


@BOTH
@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ("--epochs 3", {"train_cfg.max_epochs": 3}),
        ("--batch-size 5", {"train_dataloader.batch_size": 5}),
        ("--lr 0.02", {"optim_wrapper.optimizer.lr": 0.02, "auto_scale_lr": None}),
        ("--freeze 2", {"model.backbone.frozen_stages": 2}),
        ("--workers 3", {f"{loader}.num_workers": 3 for loader in LOADERS}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_flag_is_an_edit_of_the_config(config, flags, settings, tmp_path):
    cfg = prepared(config, tmp_path, *flags.split())
    by_options = prepared(config, tmp_path, cfg=settings)
    assert cfg.to_dict() == by_options.to_dict()
    assert cfg.to_dict() != prepared(config, tmp_path).to_dict()


@BOTH
def test_flags_that_add_hooks_metrics_and_backends(config, tmp_path):
    cfg = prepared(config, tmp_path, *["--ema", "--patience", "4", "--classwise"])
    ours = "coco/bbox_mAP" if config == DETECTOR else "mIoU"
    stops = {"type": "swin_dense.EarlyStoppingHook", "monitor": ours, "patience": 4}
    assert cfg.custom_hooks[:2] == [EMA, {**stops, "min_delta": 0.0005}]
    metric = "swin_dense.CocoMetric" if config == DETECTOR else "swin_dense.IoUMetric"
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert (evaluator.type, evaluator.classwise) == (metric, True)


@BOTH
@pytest.mark.parametrize(("flag", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_loggers_are_added_or_named_in_one_line(config, flag, package, tmp_path):
    backend = BACKEND.format(flag.capitalize())
    scope = "swin_dense." if flag == "wandb" else ""
    named = [{"type": "LocalVisBackend"}, {"type": scope + backend}]
    if find_spec(package):
        assert prepared(config, tmp_path, f"--{flag}").visualizer.vis_backends == named
        return
    for flags, options in (((f"--{flag}",), {}), ((), {"visualizer.vis_backends": named})):
        with pytest.raises(UserError, match=f"{backend} needs {package}.*pip install {package}"):
            prepared(config, tmp_path, *flags, cfg=options)


def test_other_loggers_that_are_not_installed_are_named(tmp_path):
    options = {"visualizer.vis_backends": [{"type": "AimVisBackend"}]}
    with pytest.raises(UserError, match="pip install aim"):
        prepared(DETECTOR, tmp_path, cfg=options)


def test_backends_in_a_wrong_place_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"visualizer.vis_backends"):
        prepared(DETECTOR, tmp_path, cfg={"vis_backends": [{"type": "TensorboardVisBackend"}]})
    with pytest.raises(UserError, match=r"vis_backends.0 is 'x': expected a dictionary"):
        prepared(DETECTOR, tmp_path, cfg={"visualizer.vis_backends": ["x"]})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--epochs 0", "--epochs 0: give a number of 1 or more"),
        ("--batch-size -1", "--batch-size -1"),
        ("--lr 0", "--lr 0.0: give a number above 0"),
        ("--freeze 5", "--freeze 5: the backbone has 4 stages"),
        ("--patience 0", "--patience 0"),
        ("--workers -1", "--workers -1: give a number of 0 or more"),
    ],
)
def test_values_that_cannot_be_meant(flags, words, tmp_path):
    with pytest.raises(UserError) as error:
        prepared(DETECTOR, tmp_path, *flags.split())
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("flags", "missing", "words"),
    [
        ("--image-size 9", {"test_dataloader": None, "val_dataloader": None}, "no Resize"),
        ("--patience 1", {"val_evaluator": None}, "evaluates nothing"),
        ("--classwise", {"val_evaluator": None, "test_evaluator": None}, "no CocoMetric"),
        ("--freeze 1", {"model.backbone": None}, "no backbone"),
        ("--lr 1", {"optim_wrapper.optimizer": None}, "no optim_wrapper.optimizer"),
    ],
)
def test_flags_that_do_not_fit_the_config(flags, missing, words, tmp_path):
    with pytest.raises(UserError, match=words):
        prepared(DETECTOR, tmp_path, *flags.split(), cfg=missing)


def test_scaled_and_given_learning_rates_exclude_each_other(tmp_path):
    with pytest.raises(UserError, match="--auto-scale-lr would change --lr"):
        prepared(DETECTOR, tmp_path, "--lr", "0.1", auto_scale_lr=True)


def test_image_size_of_a_detector():
    """All sizes change by one factor, those of crops and of test-time augmentation too."""
    cfg = Config.fromfile(REPO / "configs" / "mask_rcnn_swin_t_1x_coco.py")
    resize_images(cfg, 400)  # 800 before
    for pipeline in (cfg.train_pipeline, cfg.train_dataloader.dataset.pipeline):
        whole, cropped = pipeline[3].transforms
        assert whole[0].scales[0] == (240, 666)
        assert cropped[0].scales == [(200, 666), (250, 666), (300, 666)]
        assert cropped[1].crop_size == (192, 300)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.pipeline[1].scale == (666, 400)
    views = cfg.tta_pipeline[1].transforms[0]
    assert [view.scale for view in views] == [(666, 320), (666, 400), (800, 480)]


def test_image_size_of_a_segmentor():
    cfg = Config.fromfile(REPO / "configs" / "upernet_swin_t_ade20k.py")
    cfg.model.test_cfg = {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)}
    resize_images(cfg, 256)
    kinds = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert kinds["RandomResize"].scale == (1024, 256)
    assert kinds["RandomResize"].ratio_range == (0.5, 2.0)
    assert kinds["RandomCrop"].crop_size == (256, 256)
    assert kinds["RandomCrop"].cat_max_ratio == 0.75
    assert cfg.model.data_preprocessor["size"] == (256, 256)
    assert cfg.model.test_cfg.crop_size == (256, 256)
    assert cfg.model.test_cfg.stride == (170, 170)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1024, 256)


def test_parts_of_an_image_are_no_sizes():
    cfg = Config.fromfile(DETECTOR)
    crop = {"type": "RandomCrop", "crop_type": "relative", "crop_size": (0.5, 1.0)}
    cfg.train_dataloader.dataset.pipeline.append(crop)
    resize_images(cfg, 32)
    assert crop["crop_size"] == (0.5, 1.0)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (32, 32)


def test_batch_size_is_that_of_a_sampler_of_several_sources_too(tmp_path):
    sampler = {"type": "mmdet.MultiSourceSampler", "batch_size": 4, "source_ratio": [1, 1]}
    options = {"train_dataloader.sampler": sampler}
    cfg = prepared(DETECTOR, tmp_path, "--batch-size", "2", cfg=options)
    assert cfg.train_dataloader.sampler.batch_size == 2
