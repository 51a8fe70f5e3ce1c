"""Building models without allocating memory or initialising parameters, and input for them."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from swin_dense.config_tree import is_segmentation

_OBJECTS = 8  # of an image of a random batch


class _Replace(TorchFunctionMode):
    """Within it, PyTorch's functions are replaced by others, on this thread only."""

    def __init__(self, replacements: Mapping[Callable, Callable]) -> None:
        super().__init__()
        self.replacements = replacements

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return self.replacements.get(func, func)(*args, **(kwargs or {}))


def build_on_meta(cfg: Config) -> nn.Module:
    """The config's model in evaluation mode, without memory for its parameters."""
    # Rates of stochastic depth are read back from this, which the meta device cannot do.
    linspace_on_cpu = _Replace({torch.linspace: partial(torch.linspace, device="cpu")})
    scope = DefaultScope.overwrite_default_scope(cfg.default_scope)
    with torch.device("meta"), linspace_on_cpu, scope, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about training
        return MODELS.build(cfg.model).eval().requires_grad_(False)


def without_initialization() -> TorchFunctionMode:
    """Within it, parameters stay as they are allocated: large models are built much faster."""
    random_fills = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_)
    # What the functions of nn.init that cannot be replaced themselves call.
    methods = (Tensor.uniform_, Tensor.normal_, Tensor.erfinv_)
    return _Replace(dict.fromkeys(random_fills + methods, lambda tensor, *_, **__: tensor))


def randomize_parameters(module: nn.Module) -> None:
    """Random parameters as large as training makes them, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim <= 1:
                # Norm weights, biases and scales alike: nothing cancels, nothing explodes.
                parameter.copy_(0.5 + 0.2 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def random_batch(cfg: Config, size: tuple[int, int], images: int) -> dict[str, Any]:
    """Noise of ``size`` (height, width) with random targets, as a data loader would collate it."""
    rng = np.random.default_rng(0)
    inputs = [torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8)) for _ in range(images)]
    make = _segmentation_sample if is_segmentation(cfg) else _detection_sample
    meta = {"img_shape": size, "ori_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0)}
    return {"inputs": inputs, "data_samples": [make(size, meta, rng) for _ in range(images)]}


def _segmentation_sample(size: tuple[int, int], meta: dict, rng: np.random.Generator) -> Any:
    from mmseg.structures import SegDataSample

    labels = PixelData(data=torch.from_numpy(rng.integers(0, 2, (1, *size))))
    return SegDataSample(metainfo=meta, gt_sem_seg=labels)


def _detection_sample(size: tuple[int, int], meta: dict, rng: np.random.Generator) -> Any:
    # Not mmdet's demo_mm_inputs: among its boxes are some so small that rounding decides matches.
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    corner = rng.uniform(0, 0.6, (_OBJECTS, 2)) * size[::-1]
    boxes = np.hstack([corner, corner + rng.uniform(0.1, 0.4, (_OBJECTS, 2)) * size[::-1]])
    masks = np.zeros((_OBJECTS, *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(metainfo=meta | {"img_id": 0, "batch_input_shape": size})
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes).float(),
        labels=torch.zeros(_OBJECTS, dtype=torch.long),
        masks=BitmapMasks(masks, *size),
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(masks[:1]).long())
    return sample
