"""The flags that fit a training to data and machine, each the same as an edit of the config."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config

from swin_dense import config_tree
from swin_dense.errors import UserError

# Arguments of transforms and batch augmentations that are sizes in pixels.
_SIZES = {"scale", "scales", "img_scale", "img_scales", "crop_size", "size", "border"}
_SIZES |= {"pad_size", "random_size_range"}
# mmengine's visualization backends: what they import, and from which package it comes.
_PACKAGES = {
    "TensorboardVisBackend": ("tensorboard", "tensorboard"),
    "WandbVisBackend": ("wandb", "wandb"),
    "MLflowVisBackend": ("mlflow", "mlflow"),
    "ClearMLVisBackend": ("clearml", "clearml"),
    "NeptuneVisBackend": ("neptune", "neptune"),
    "DVCLiveVisBackend": ("dvclive", "dvclive"),
    "AimVisBackend": ("aim", "aim"),
}
# By the number of steps: the first ones are soon forgotten, also in a training of a hundred.
_EMA = {
    "type": "EMAHook",
    "ema_type": "MomentumAnnealingEMA",
    "momentum": 0.0002,
    "gamma": 100,
    "update_buffers": True,
    "priority": 49,
}
_LEAST_GAIN = 0.0005  # of a metric: they are rounded to three decimals


@dataclass(frozen=True)
class FitOptions:
    """Flags of ``tools/train.py`` that replace settings of the config; None leaves these.

    docs/training.md has the keys of a config that each of them sets.

    Attributes:
        epochs: how often each image is trained on, also where the config counts iterations.
        batch_size: training images in a batch of one process.
        lr: learning rate, for the batches of this training.
        image_size: short side of images in tests, in pixels; all sizes of the pipelines are
            multiplied by the same number.
        ema: evaluate and save the moving average of the weights.
        patience: evaluations without a better result after which training stops.
        freeze: stages of the backbone that are not trained, and what is before them.
        workers: processes that load images, of each data loader.
        tensorboard: write TensorBoard's files too.
        wandb: log to Weights & Biases too.
        classwise: report the metrics of each class.
    """

    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    image_size: int | None = None
    ema: bool = False
    patience: int | None = None
    freeze: int | None = None
    workers: int | None = None
    tensorboard: bool = False
    wandb: bool = False
    classwise: bool = False


def fit_config(cfg: Config, options: FitOptions) -> None:
    """Makes the edits that the options stand for, and checks those that a config may have.

    Raises:
        UserError: an option does not fit the config, or needs a package that is not installed.
    """
    for name in ("epochs", "batch_size", "image_size", "patience"):
        _require_at_least(options, name, 1)
    for name in ("freeze", "workers"):
        _require_at_least(options, name, 0)
    if options.epochs is not None:
        _set_epochs(cfg, options.epochs)
    if options.batch_size is not None:
        _set_batch_size(cfg, options.batch_size)
    if options.lr is not None:
        _set_learning_rate(cfg, options.lr)
    if options.image_size is not None:
        resize_images(cfg, options.image_size)
    if options.freeze is not None:
        _freeze(cfg, options.freeze)
    if options.workers is not None:
        _set_workers(cfg, options.workers)
    if options.ema:
        _add_ema(cfg)
    if options.patience is not None:
        _stop_early(cfg, options.patience)
    if options.classwise:
        _report_classes(cfg)
    for backend, wanted in (("Tensorboard", options.tensorboard), ("Wandb", options.wandb)):
        if wanted:
            _log_to(cfg, f"{backend}VisBackend")
    _check_backends(cfg)


def _require_at_least(options: FitOptions, name: str, least: int) -> None:
    value = getattr(options, name)
    if value is not None and value < least:
        raise UserError(f"--{name.replace('_', '-')} {value}: give a number of {least} or more")


def _set_epochs(cfg: Config, epochs: int) -> None:
    if not {"max_epochs", "max_iters"} & cfg.train_cfg.keys():
        raise UserError("--epochs: train_cfg of the config has no max_epochs or max_iters")
    cfg.train_cfg.max_epochs = epochs  # of IterationLoop too, which has max_iters beside it


def _set_batch_size(cfg: Config, size: int) -> None:
    loader = cfg.train_dataloader
    loader.batch_size = size
    if "batch_size" in (loader.get("sampler") or {}):  # mmdet's, which mix several data sets
        loader.sampler.batch_size = size


def _set_learning_rate(cfg: Config, lr: float) -> None:
    if not lr > 0:
        raise UserError(f"--lr {lr}: give a number above 0")
    if not isinstance(cfg.optim_wrapper.get("optimizer"), Mapping):
        raise UserError("--lr: the config has no optim_wrapper.optimizer: set its lr there")
    cfg.optim_wrapper.optimizer.lr = lr
    cfg.auto_scale_lr = None  # it tells which batches the config's own is for


def resize_images(cfg: Config, short_side: int) -> None:
    """Multiplies all sizes in the pipelines, so that test images have this short side.

    Sizes in pixels of the transforms in every pipeline are multiplied by one number, rounded; also
    the crops that a segmentor is trained on (``data_preprocessor.size``) and those of sliding
    windows in its test (``test_cfg.crop_size``, ``test_cfg.stride``).

    Raises:
        UserError: the test pipeline does not resize images to a fixed size.
    """
    factor = short_side / _tested_size(cfg)
    found: dict[int, dict] = {}  # pipelines of several names may share a step
    for pipeline in config_tree.pipelines(cfg):
        found |= {id(step): step for step in config_tree.steps(pipeline)}
    for step in found.values():
        for key in _SIZES & step.keys():
            step[key] = _multiplied(step[key], factor)
    model = cfg.model
    places = [(cfg.get("data_preprocessor"), ("size",)), (model.get("test_cfg"), _WINDOWS)]
    places.append((model.get("data_preprocessor"), ("size",)))
    batch = (model.get("data_preprocessor") or {}).get("batch_augments") or []
    places += [(augment, ("size", "random_size_range")) for augment in batch]
    for node, keys in places:
        for key in keys:
            if node and node.get(key) is not None:
                node[key] = _multiplied(node[key], factor)


_WINDOWS = ("crop_size", "stride")


def tested_scale(cfg: Config) -> Any:
    """The size in pixels to which the test pipeline resizes images; None without such a step."""
    for split in ("test", "val"):
        for dataset in config_tree.split_datasets(cfg, split):
            for step in config_tree.steps(dataset.get("pipeline")):
                if "Resize" in str(step["type"]) and step.get("scale") is not None:
                    return step["scale"]
    return None


def _tested_size(cfg: Config) -> int:
    """The short side, in pixels, to which the test pipeline resizes images."""
    scale: Any = tested_scale(cfg)
    if scale is None:
        raise UserError(
            "--image-size: the test pipeline of the config has no Resize with a scale to change"
        )
    return min(scale) if isinstance(scale, (list, tuple)) else scale


def _multiplied(value: Any, factor: float) -> Any:
    """A size, or several of them; a part of the image (up to 1) or -1 stays."""
    if isinstance(value, (list, tuple)):
        return type(value)(_multiplied(one, factor) for one in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or -1 <= value <= 1:
        return value
    return round(value * factor)


def _freeze(cfg: Config, stages: int) -> None:
    model = cfg.model
    backbone: Any = model.get("backbone") or (model.get("detector") or {}).get("backbone")
    if not isinstance(backbone, dict):
        raise UserError("--freeze: the model of the config has no backbone: remove it")
    depth = len(backbone.get("depths") or backbone.get("out_indices") or range(4))
    if stages > depth:
        raise UserError(f"--freeze {stages}: the backbone has {depth} stages")
    backbone["frozen_stages"] = stages


def _set_workers(cfg: Config, workers: int) -> None:
    for split in ("train", "val", "test"):
        if loader := cfg.get(f"{split}_dataloader"):
            loader.num_workers = workers


def _add_ema(cfg: Config) -> None:
    hooks = list(cfg.get("custom_hooks") or [])
    if not any(_kind(hook) == "EMAHook" for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(_EMA)]


def _stop_early(cfg: Config, patience: int) -> None:
    if not (cfg.get("val_dataloader") and cfg.get("val_evaluator")):
        raise UserError("--patience: the config evaluates nothing during training: remove it")
    best = (cfg.get("default_hooks") or {}).get("checkpoint", {}).get("save_best")
    best = best[0] if isinstance(best, (list, tuple)) and best else best
    usual = "mIoU" if config_tree.is_segmentation(cfg) else "coco/bbox_mAP"
    hook = {
        "type": "swin_dense.EarlyStoppingHook",
        "monitor": usual if best in (None, "auto") else best,
        "patience": patience,
        "min_delta": _LEAST_GAIN,
    }
    others = [one for one in cfg.get("custom_hooks") or [] if _kind(one) != "EarlyStoppingHook"]
    cfg.custom_hooks = [*others, hook]


def _report_classes(cfg: Config) -> None:
    metrics = [m for split in ("val", "test") for m in config_tree.split_evaluators(cfg, split)]
    ours = [metric for metric in metrics if _kind(metric) in ("CocoMetric", "IoUMetric")]
    if not ours:
        raise UserError("--classwise: the config has no CocoMetric or IoUMetric: remove it")
    for metric in ours:  # of their own, mmdet's mixes boxes and masks, mmseg's has only a log
        metric.update(type=f"swin_dense.{_kind(metric)}", classwise=True)


def _log_to(cfg: Config, backend: str) -> None:
    if cfg.get("visualizer") is None:
        cfg.visualizer = {"type": "Visualizer"}
    backends = list(cfg.visualizer.get("vis_backends") or [{"type": "LocalVisBackend"}])
    if not any(_kind(one) == backend for one in backends):
        cfg.visualizer.vis_backends = [*backends, {"type": backend}]


def _check_backends(cfg: Config) -> None:
    for backend in (cfg.get("visualizer") or {}).get("vis_backends") or []:
        module, package = _PACKAGES.get(_kind(backend), (None, ""))
        if module is not None and find_spec(module) is None:
            raise UserError(
                f"{_kind(backend)} needs {package}, which is not installed: pip install {package}, "
                "or train without it"
            )


def _kind(node: Mapping[str, Any]) -> str:
    kind = node.get("type")
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
