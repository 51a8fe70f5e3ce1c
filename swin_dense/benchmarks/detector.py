"""A whole training step of a config, with our backbone and with OpenMMLab's."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from swin_dense.analysis.parity import OURS as OUR_TYPE
from swin_dense.analysis.parity import STOCK, backbone_type, swapped
from swin_dense.backbones.swin_args import ARCHS
from swin_dense.benchmarks import costs
from swin_dense.benchmarks.agreement import DTYPES, TOLERANCES, differences
from swin_dense.benchmarks.backbone import Run
from swin_dense.benchmarks.baselines import OURS
from swin_dense.benchmarks.timing import interleave
from swin_dense.config_tree import is_segmentation
from swin_dense.engine.config.pretrained import drop_pretrained
from swin_dense.errors import UserError

# Of losses with the same weights and random numbers: rounding can exchange a box that is sampled.
_TOLERANCE = 1e-2
_BOXES = 8


def both_configs(cfg: Config) -> dict[str, Config]:
    """The config with our backbone and with the stock one, without pretrained weights.

    Raises:
        UserError: its backbone is neither, or has a part that the stock one lacks.
    """
    cfg = copy.deepcopy(cfg)
    drop_pretrained(cfg)
    kind = backbone_type(cfg)
    scope = "mmseg" if is_segmentation(cfg) else "mmdet"
    if kind == STOCK:
        return {OURS: swapped(cfg), scope: cfg}
    if kind != OUR_TYPE:
        raise UserError(f"model.backbone.type is {kind!r}, expected {OUR_TYPE!r} or {STOCK!r}")
    stock = copy.deepcopy(cfg)
    stock.model.backbone = _stock_arguments(cfg.model.backbone.to_dict(), scope)
    return {OURS: cfg, scope: stock}


def _stock_arguments(backbone: dict[str, Any], scope: str) -> dict[str, Any]:
    arguments = dict(backbone)
    if arch := arguments.pop("arch", None):
        names = ("embed_dims", "depths", "num_heads")
        arguments |= dict(zip(names, ARCHS[arch], strict=True))
    for own in ("attn_impl", "cuda_graphs"):  # which change no result
        arguments.pop(own, None)
    known = inspect.signature(import_module(f"{scope}.models").SwinTransformer).parameters
    if unknown := [name for name in arguments if name != "type" and name not in known]:
        raise UserError(f"{scope}'s SwinTransformer has no {unknown[0]}: there is no such model")
    return arguments | {"type": f"{scope}.{STOCK}"}


def box_samplers(cfg: Config) -> list[Any]:
    """What chooses, in a detector of several stages, the boxes that the later ones train on."""
    stages = (cfg.model.get("train_cfg") or {}).get("rcnn") or []
    stages = stages if isinstance(stages, (list, tuple)) else [stages]
    return [stage.sampler for stage in stages if "num" in (stage.get("sampler") or {})]


def _train_on_boxes(cfg: Config, boxes: int) -> None:
    samplers = box_samplers(cfg)
    if not samplers:
        raise UserError("--boxes: nothing in this model samples boxes: leave it out")
    for sampler in samplers:
        sampler.num = boxes


def measure_detector(
    cfg: Config, size: tuple[int, int], run: Run, boxes: int | None = None
) -> dict[str, Any]:
    """Check that maps and losses agree, then time training steps in turns.

    A step is ``model.train_step`` on noise with a few objects: forward, losses, backward,
    clipping, optimizer.

    Args:
        cfg: a detector or segmentor with Swin.
        size: height and width of the images in pixels.
        run: how to measure.
        boxes: of each image, on which the heads of later stages train; by default the config's.

    Returns:
        ``settings`` and ``contestants``, as of the backbone.

    Raises:
        UserError: the backbone is not Swin, nothing samples boxes, or maps or losses disagree;
            nothing is timed then.
    """
    configs = both_configs(cfg)
    if boxes is not None:
        for one in configs.values():
            _train_on_boxes(one, boxes)
    if is_segmentation(cfg):
        for one in configs.values():
            one.model.data_preprocessor.size = size  # else images are filled up to the crop's
    models = {name: _build(one, run.device) for name, one in configs.items()}
    ours, stock = models.values()
    stock.load_state_dict(ours.state_dict())
    batch = make_batch(cfg, size, run.batch)
    error = _check_agreement(ours, stock, batch, DTYPES[run.dtype])
    steps = {n: _step(m, configs[n], batch, run) for n, m in models.items()}
    contestants: list[dict[str, Any]] = []
    for name, step in steps.items():  # these steps warm up for the timed ones
        record: dict[str, Any] = costs.training_costs(models[name], step, run.device)
        contestants.append({"name": name, "difference": float(f"{error:.2g}"), "training": record})
    times = interleave(steps, run.rounds, run.device, warm_up=False)
    for one in contestants:
        timing = times[one["name"]]
        ratio = round(timing.median / times[OURS].median, 3)
        one["training"] |= timing.as_json() | {"times_ours": ratio}
    settings: dict[str, Any] = {"size": list(size), "batch": run.batch, "dtype": run.dtype}
    settings |= {"rounds": run.rounds, "boxes": boxes}
    return {"settings": settings, "contestants": contestants}


def _build(cfg: Config, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
    model.init_weights()
    return model.to(device)


def _step(
    model: nn.Module, cfg: Config, batch: dict[str, Any], run: Run
) -> Callable[[], dict[str, Tensor]]:
    wrapper = {**cfg.optim_wrapper.to_dict(), "type": "OptimWrapper"}
    for only_amp in ("loss_scale", "dtype"):
        wrapper.pop(only_amp, None)
    if DTYPES[run.dtype] != torch.float32:
        wrapper |= {
            "type": "AmpOptimWrapper",
            "dtype": {"fp16": "float16"}.get(run.dtype, "bfloat16"),
        }
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        optimizer = build_optim_wrapper(model, wrapper)
    model.train()
    trained: Any = model
    return lambda: trained.train_step(copy.deepcopy(batch), optimizer)


def _check_agreement(
    ours: nn.Module, stock: nn.Module, batch: dict[str, Any], dtype: torch.dtype
) -> float:
    """How far the maps of the backbones, and the gradient of an image, are from each other."""
    for model in (ours, stock):
        model.eval()
    image = _preprocessed(ours, batch)["inputs"][:1]
    backbones: dict[str, Any] = {OURS: ours.backbone, STOCK: stock.backbone}
    error = differences(backbones, image, dtype)[STOCK]
    if not error <= TOLERANCES[dtype]:
        raise UserError(f"maps of either backbone differ by {error:.1g}: nothing was timed")
    losses = _loss_difference(ours, stock, batch)
    if not losses <= _TOLERANCE:
        raise UserError(f"losses with either backbone differ by {losses:.1g}: nothing was timed")
    return error


def _preprocessed(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    return model.data_preprocessor(copy.deepcopy(batch), training=True)


def _loss_difference(ours: nn.Module, stock: nn.Module, batch: dict[str, Any]) -> float:
    """Largest difference of a loss over the largest loss.

    Not over the loss itself: that of few boxes can be next to nothing, and mostly rounding.
    """
    a, b = _losses(ours, batch), _losses(stock, batch)
    if a.keys() != b.keys():
        return float("inf")
    return max(abs(a[name] - b[name]) for name in a) / max(map(abs, a.values()))


def _losses(model: Any, batch: dict[str, Any]) -> dict[str, float]:
    model.train()
    torch.manual_seed(1)
    np.random.seed(1)
    with torch.no_grad():
        losses = model(**_preprocessed(model, batch), mode="loss")
    return {
        name: float(sum(value) if isinstance(value, list) else value)
        for name, value in losses.items()
        if "loss" in name
    }


def make_batch(cfg: Config, size: tuple[int, int], images: int) -> dict[str, Any]:
    """Noise and random targets, as the training pipeline would pack them."""
    draw = np.random.default_rng(0)
    inputs = [torch.from_numpy(draw.integers(0, 256, (3, *size), np.uint8)) for _ in range(images)]
    make = _segmentation_sample if is_segmentation(cfg) else _detection_sample
    return {"inputs": inputs, "data_samples": [make(size, draw) for _ in range(images)]}


def _facts(size: tuple[int, int]) -> dict[str, Any]:
    return {"img_shape": size, "ori_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0)}


def _segmentation_sample(size: tuple[int, int], draw: np.random.Generator) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=_facts(size))
    labels = torch.from_numpy(draw.integers(0, 2, (1, *size)))
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def _detection_sample(size: tuple[int, int], draw: np.random.Generator) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    height, width = size
    corner = draw.uniform(0, 0.6, (_BOXES, 2)) * (width, height)
    boxes = np.hstack([corner, corner + draw.uniform(0.1, 0.4, (_BOXES, 2)) * (width, height)])
    masks = np.zeros((_BOXES, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(metainfo=_facts(size) | {"img_id": 0, "batch_input_shape": size})
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes).float(),
        labels=torch.zeros(_BOXES, dtype=torch.long),
        masks=BitmapMasks(masks, height, width),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(masks[:1]).long())
    return sample
