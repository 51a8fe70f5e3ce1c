"""Building models without allocating memory or initialising parameters, and input for them."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
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
    if not is_segmentation(cfg):
        from mmdet.testing import demo_mm_inputs

        objects = [_OBJECTS] * images
        return demo_mm_inputs(images, (3, *size), objects, 2, with_mask=True, with_semantic=True)
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (images, 3, *size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(2, (images, 1, *size), generator=generator)
    meta = {"img_shape": size, "ori_shape": size, "pad_shape": size}
    samples = [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=one)) for one in labels]
    return {"inputs": list(inputs), "data_samples": samples}
