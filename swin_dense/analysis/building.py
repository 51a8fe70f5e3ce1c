"""Building models without allocating memory, or without initialising parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


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
