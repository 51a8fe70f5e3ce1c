"""A whole training step of a config, with our backbone and with OpenMMLab's."""

import copy
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from swin_dense.analysis.building import random_batch
from swin_dense.analysis.parity import OURS as OUR_TYPE
from swin_dense.analysis.parity import STOCK, backbone_type, build_optimizer, with_our_backbone
from swin_dense.backbones.swin_args import ARCHS
from swin_dense.benchmarks.baselines import OURS, TOLERANCES, differences
from swin_dense.benchmarks.measurement import Run, interleave, training_costs
from swin_dense.config_tree import is_segmentation
from swin_dense.engine.config.pretrained import drop_pretrained
from swin_dense.errors import UserError

# Of losses with the same weights and random numbers: rounding can exchange a box that is sampled.
_TOLERANCE = 1e-2


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
        return {OURS: with_our_backbone(cfg), scope: cfg}
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


def measure_detector(
    cfg: Config, size: tuple[int, int], run: Run, boxes: int | None = None
) -> dict[str, Any]:
    """Check that feature maps and losses agree, then time training steps alternately.

    A step is ``model.train_step`` on noise with a few objects: forward, losses, backward,
    clipping, optimizer.

    Args:
        cfg: of a detector or segmentor.
        size: height and width of the images in pixels.
        boxes: of each image, on which the heads of later stages train; by default the config's.

    Returns:
        ``settings`` and ``models``, as of the backbone.

    Raises:
        UserError: the backbone is not Swin, nothing samples boxes, or feature maps or losses
            disagree; nothing is timed then.
    """
    configs = both_configs(cfg)
    if boxes is not None and not box_samplers(cfg):
        raise UserError("--boxes: nothing in this model samples boxes: remove it")
    for one in configs.values():
        if boxes is not None:
            for sampler in box_samplers(one):
                sampler.num = boxes
        if is_segmentation(cfg):
            one.model.data_preprocessor.size = size  # else images are padded to the crop's
    models = {name: build_model(one, run.device) for name, one in configs.items()}
    ours, stock = models.values()
    stock.load_state_dict(ours.state_dict())
    batch = random_batch(cfg, size, run.batch)
    error = float(f"{_check_agreement(ours, stock, batch, run):.2g}")
    steps = {n: _step(m, configs[n], batch, run) for n, m in models.items()}
    # These steps warm up for the timed ones.
    costs = {name: training_costs(models[name], step, run.device) for name, step in steps.items()}
    times = interleave(steps, run.rounds, run.device, warm_up=False)
    records = []
    for name, timing in times.items():
        training = costs[name] | timing.as_json(times[OURS])
        records.append({"name": name, "difference": error, "training": training})
    settings: dict[str, Any] = {"size": list(size), "batch": run.batch, "dtype": run.dtype}
    settings |= {"rounds": run.rounds, "boxes": boxes}
    return {"settings": settings, "models": records}


def build_model(cfg: Config, device: torch.device) -> nn.Module:
    """The config's model, with the same random weights on every call."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
    model.init_weights()
    return model.to(device)


def _step(
    model: nn.Module, cfg: Config, batch: dict[str, Any], run: Run
) -> Callable[[], dict[str, Tensor]]:
    amp = {"fp16": "float16", "bf16": "bfloat16"}
    optimizer = build_optimizer(model, cfg, amp.get(run.dtype))
    model.train()
    trained: Any = model
    return lambda: trained.train_step(copy.deepcopy(batch), optimizer)


def _check_agreement(ours: nn.Module, stock: nn.Module, batch: dict[str, Any], run: Run) -> float:
    """How far the backbones' feature maps, and the gradient of an image, are from each other."""
    for model in (ours, stock):
        model.eval()
    image = _preprocessed(ours, batch)["inputs"][:1]
    backbones: dict[str, Any] = {OURS: ours.backbone, STOCK: stock.backbone}
    error = differences(backbones, image, run)[STOCK]
    if not error <= TOLERANCES[run.dtype]:
        raise UserError(f"the feature maps of both differ by {error:.1g}: nothing was timed")
    losses = _loss_difference(ours, stock, batch)
    if not losses <= _TOLERANCE:
        raise UserError(f"the losses of both differ by {losses:.1g}: nothing was timed")
    return error


def _preprocessed(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    return model.data_preprocessor(copy.deepcopy(batch), training=True)


def _loss_difference(ours: nn.Module, stock: nn.Module, batch: dict[str, Any]) -> float:
    """Largest difference of a loss over the largest loss.

    Not over the loss itself: the loss of a few boxes can be tiny and consist mostly of rounding.
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
    parsed = model.parse_losses(losses)[1]
    return {k: float(v) for k, v in parsed.items() if "loss" in k and k != "loss"}  # all but sums
