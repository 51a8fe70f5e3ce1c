"""Who computes a layer with ``attn_impl='auto'`` on a GPU: the candidates of :mod:`~.ops.autotune`.

A candidate is an :class:`~.dispatch.AttnImpl`: plain modules or functions of :mod:`~.ops.block`, by
PyTorch or Triton, with one of the attentions. What is measured are copies of the layer with other
weights, so that a training step does not notice it.

Where nothing may be measured (see :func:`~.autotune.fixed_reason`) inference takes the functions by
PyTorch with scaled_dot_product_attention: the operations of the plain modules, with fewer passes
over memory. Training takes the plain modules with the reference attention, which are the operations
of mmdet's backbone and need its memory.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from swin_dense.ops import autotune, triton_support
from swin_dense.ops.autotune import Candidate, Race
from swin_dense.ops.block.triton import support
from swin_dense.ops.dispatch import AttnImpl, is_observed
from swin_dense.ops.torch_versions import autocast_dtype
from swin_dense.ops.window_attention.triton import op
from swin_dense.ops.window_attention.windows import mask_store

# On CPUs 'auto' means the same everywhere.
DEVICES = {"cuda"}
# By what factor others must be faster than the functions by PyTorch: plain modules keep three times
# as much for backward, and Triton's gain should be more than noise.
_MODULES, _MODULES_IN_TRAINING, _TRITON = 1.03, 1.1, 1.03
_SEED = 0


class Settings(NamedTuple):
    """What may change from one call of a layer to the next, and decides who is the fastest."""

    device: torch.device
    stream: torch.dtype  # of the layer's input
    weights: torch.dtype
    autocast: torch.dtype | None
    fp32: str  # how products of fp32 numbers are computed
    training: bool  # gradients are wanted
    deterministic: bool
    in_job: bool
    channels_first: bool = False  # in memory, although the shape of the input says otherwise

    @classmethod
    def current(cls, x: Tensor, weight: Tensor) -> "Settings":
        """Those of a call with input ``x``; ``weight`` is one of the layer's."""
        return cls(
            x.device,
            x.dtype,
            weight.dtype,
            autocast_dtype(x.device.type),
            triton_support.fp32_precision(),
            torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad),
            torch.are_deterministic_algorithms_enabled(),
            autotune.in_job(),
            not x.is_contiguous() and x.permute(0, 3, 1, 2).is_contiguous(),
        )

    @property
    def products(self) -> torch.dtype:
        """Precision of matrix products."""
        return self.weights if self.autocast is None else self.autocast


class Choice:
    """Who computes a layer, found on first use of each of its settings.

    Args:
        layer: of type ``(B, H, W, C) -> ...``; the ``attn_impl`` of its parts say who computes it.
        weight: one of its weights.
    """

    def __init__(self, layer: nn.Module, weight: Tensor) -> None:
        self._layer, self._weight = layer, weight
        self._found: dict[Settings, AttnImpl] = {}

    def of(self, x: Tensor) -> AttnImpl:
        """Who computes ``layer(x)``."""
        settings = Settings.current(x, self._weight)
        found = self._found.get(settings)
        if found is None:
            attention = _attention(self._layer)
            drops = attention is not None and attention.training and attention.attn_drop_rate
            numbers = type(x) in (Tensor, nn.Parameter)
            # What observes operators would see those of the measurement.
            if drops or not numbers or is_observed() or autotune.is_capturing():
                return fixed_impl(self._layer, settings.training)
            found = self._found[settings] = self._choose(x, settings)
        return found

    def _choose(self, x: Tensor, settings: Settings) -> AttnImpl:
        race, impls = make_race(self._layer, tuple(x.shape), settings)
        return impls[autotune.choose(race) if len(impls) > 1 else race.fixed]


def fixed_impl(layer: nn.Module, training: bool) -> AttnImpl:
    """Who computes a layer where nothing may be measured."""
    attention = _attention(layer)
    if not training:
        return AttnImpl("sdpa", fused=not _is_norm(layer))
    # Of a whole feature map the reference would keep all scores.
    whole = attention is not None and not hasattr(attention, "window_size")
    return AttnImpl("sdpa" if whole else "reference", fused=False)


def make_race(
    layer: nn.Module, shape: tuple[int, ...], settings: Settings
) -> tuple[Race, Mapping[str, AttnImpl]]:
    """The candidates for a layer and an input of this shape; and what their names mean."""
    attention = _attention(layer)
    impls = {_name(impl, attention): impl for impl in _candidates(layer, attention, settings)}
    copies = _Copies(layer, shape, settings)
    candidates = [
        Candidate(
            name,
            partial(copies.check, impl),
            partial(copies.step, impl),
            _handicap(impl, settings.training and not _is_norm(layer)),
            impl.triton or impl.name == "triton",
        )
        for name, impl in impls.items()
    ]
    phase = "training" if settings.training else "inference"
    precision = str(settings.products).removeprefix("torch.")
    race = Race(
        f"{_what(layer)} of {shape[-1]} channels, {precision}, {phase}",
        _key(layer, attention, settings),
        candidates,
        copies.exact,
        trusted=_name(_REFERENCE, attention),
        fixed=_name(fixed_impl(layer, settings.training), attention),
        device=settings.device,
    )
    return race, impls


_REFERENCE = AttnImpl("reference", fused=False)


def _attention(layer: nn.Module) -> Any | None:
    return next((part for part in layer.modules() if hasattr(part, "num_heads")), None)


def _is_norm(layer: nn.Module) -> bool:
    """Whether it is the norm of a map, for which there is no function by PyTorch."""
    return hasattr(layer, "channels_first")


def _what(layer: nn.Module) -> str:
    return type(layer).__name__ + (" to NCHW" if getattr(layer, "channels_first", False) else "")


def _weights(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and the tensors that parallel training may put in their place."""
    for prefix, part in layer.named_modules():
        plain = ((name, v) for name, v in vars(part).items() if isinstance(v, Tensor))
        for name, tensor in (*part.named_parameters(recurse=False), *plain):
            yield f"{prefix}.{name}".lstrip("."), tensor


def _name(impl: AttnImpl, attention: Any | None) -> str:
    layers = "modules" if not impl.fused else "triton" if impl.triton else "pytorch"
    return layers if attention is None else f"{layers}+{impl.name}"


def _candidates(layer: nn.Module, attention: Any | None, settings: Settings) -> Iterator[AttnImpl]:
    """All that can run."""
    weight = next(_weights(layer))[1] if attention is None else attention.proj.weight
    channels = weight.shape[0]
    rows = torch.empty((0, channels), dtype=settings.stream, device=settings.device)
    has_kernels = getattr(layer, "has_kernels", True)
    by_triton = has_kernels and support.unsupported_reason(rows, settings.products) is None
    attentions = ["sdpa"] if attention is None else ["sdpa", "reference"]
    if attention is not None and hasattr(attention, "window_size"):
        qkv = rows.new_empty((0, 1, 1, 3 * channels), dtype=settings.products)
        sizes = attention.num_heads, attention.window_size
        if op.unsupported_reason(qkv, *sizes, dropout_p=0.0) is None:
            attentions.append("triton")
        if settings.device.type == "cpu":
            attentions.append("cpu")
    for name in attentions:
        if not _is_norm(layer):
            yield AttnImpl(name)
        yield AttnImpl(name, fused=False)
        if by_triton:
            yield AttnImpl(name, triton=True)


def _handicap(impl: AttnImpl, keeps_more: bool) -> float:
    factor = 1.0
    if not impl.fused:
        factor = _MODULES_IN_TRAINING if keeps_more else _MODULES
    return factor * (_TRITON if impl.triton or impl.name == "triton" else 1.0)


def _key(layer: nn.Module, attention: Any | None, settings: Settings) -> dict[str, Any]:
    """What a choice depends on."""
    return {
        "what": _what(layer),
        "device": autotune.describe_device(settings.device),
        "versions": autotune.versions("triton") | {"cuda": torch.version.cuda},
        "parameters": {name: list(p.shape) for name, p in _weights(layer)},
        "attention": type(attention).__name__,
        "num_heads": getattr(attention, "num_heads", None),
        "window_size": getattr(attention, "window_size", None),
        "stream": str(settings.stream),
        "weights": str(settings.weights),
        "autocast": str(settings.autocast),
        "fp32": settings.fp32,
        "training": settings.training,
        "channels_first": settings.channels_first,
    }


class _Replay(nn.Module):
    """Scales every branch by the factors of its images, in place of stochastic depth."""

    def __init__(self, factors: list[Tensor]) -> None:
        super().__init__()
        self._factors = iter(factors)

    def forward(self, branch: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        return branch * next(self._factors).to(branch.dtype)


class _Copies:
    """Copies of a layer with random weights, which candidates compute.

    Half of the blocks of a stage shift their windows: a candidate computes one of each kind.
    """

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], settings: Settings) -> None:
        self._layer, self._shape, self._settings = layer, shape, settings
        self._masks: dict[tuple, Tensor] = {}
        window = getattr(_attention(layer), "window_size", None)
        self._shifts = (0,) if window is None else (0, window // 2)
        # Both sides are odd, and no multiple of the window.
        side = 7 if window is None else window
        self._small = (2, 2 * side + 1, side + 1 + side % 2, shape[-1])
        # Made once, and where they are used.
        self._weights = cache(self._make_weights)
        self._copy = cache(self._make_copy)
        self._large_input = cache(lambda: self._input(shape))
        self._gradient = cache(self._make_gradient)

    def check(self, impl: AttnImpl) -> list[Tensor]:
        """Output and gradients from the small input, twice if windows are shifted."""
        return self._compute(impl, None)

    def exact(self) -> list[Tensor]:
        """What :meth:`check` should return: by the plain modules in float64."""
        return self._compute(_REFERENCE, torch.float64)

    def step(self, impl: AttnImpl) -> None:
        """One pass over the real input, with backward in training."""
        for shift in self._shifts:
            self._run(*self._copy(impl, shift), self._large_input(), None)

    def _compute(self, impl: AttnImpl, dtype: torch.dtype | None) -> list[Tensor]:
        found: list[Tensor] = []
        for shift in self._shifts:
            layer, weights = self._make_copy(impl, shift, dtype)
            factors = self._stochastic_depth(layer)
            if factors and dtype is not None:
                layer.drop_path = _Replay(factors)
            x = self._input(self._small)
            x = x if dtype is None else x.to(dtype)
            found += self._run(layer, weights, x, dtype)
        return found

    def _run(
        self, layer: nn.Module, weights: list[Tensor], x: Tensor, dtype: torch.dtype | None
    ) -> list[Tensor]:
        """The outputs; in training also the gradients of the input and of all weights."""
        settings = self._settings
        autocast: Any = contextlib.nullcontext()
        if settings.autocast is not None and dtype is None:
            # Its cache would keep the copies' weights.
            device = settings.device.type
            autocast = torch.autocast(device, settings.autocast, cache_enabled=False)
        with mask_store(self._masks), torch.set_grad_enabled(settings.training):
            x = x.detach().requires_grad_(settings.training)
            with autocast:
                out = layer(x)
            outs = [out] if isinstance(out, Tensor) else list(out)
            if not settings.training:
                return outs
            grads = [self._gradient(y.shape, y.dtype) for y in outs]
            return [*(y.detach() for y in outs), *torch.autograd.grad(outs, [x, *weights], grads)]

    def _stochastic_depth(self, layer: Any) -> list[Tensor]:
        """Make every second image skip a branch, on average; the factors that will be drawn."""
        drop_path: Any = getattr(layer, "drop_path", None)
        if type(drop_path) is not DropPath or not (drop_path.drop_prob and drop_path.training):
            return []
        drop_path.drop_prob = 0.5
        self._seed()
        shape = (self._small[0], 1, 1, 1)
        ones = torch.ones(shape, dtype=self._settings.products, device=self._settings.device)
        factors = [drop_path(ones), drop_path(ones)]
        self._seed()
        return factors

    def _seed(self) -> None:
        """Seed the numbers that stochastic depth draws; the caller's come back later."""
        if self._settings.device.type == "cuda":
            torch.cuda.manual_seed(_SEED)
        else:
            torch.default_generator.manual_seed(_SEED)

    def _random(self, shape: tuple[int, ...]) -> Tensor:
        device = self._settings.device
        generator = torch.Generator(device).manual_seed(_SEED)
        return torch.randn(shape, generator=generator, device=device)

    def _input(self, shape: tuple[int, ...]) -> Tensor:
        x = self._random(shape).to(self._settings.stream)
        if self._settings.channels_first:
            x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        return x

    def _make_gradient(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Of an output; the same numbers in every precision."""
        return self._random(shape).to(self._settings.products).to(dtype)

    def _make_weights(self) -> dict[int, Tensor]:
        """For every parameter of the layer another one, all of which take part in the result."""
        found = {}
        for name, p in _weights(self._layer):
            value = self._random(tuple(p.shape)) * (p.shape[-1] ** -0.5 if p.ndim > 1 else 0.3)
            is_norm = p.ndim == 1 and name.endswith("weight")
            found[id(p)] = (value + 1 if is_norm else value).to(p.dtype)
        return found

    def _make_copy(
        self, impl: AttnImpl, shift: int, dtype: torch.dtype | None = None
    ) -> tuple[nn.Module, list[Tensor]]:
        """A copy without hooks, and its weights."""
        memo: dict[int, Any] = {
            key: nn.Parameter(value.to(dtype or value.dtype), self._settings.training)
            for key, value in self._weights().items()
        }
        weights = list(memo.values())
        for original in self._layer.modules():
            hooks = (v for name, v in vars(original).items() if "hooks" in name)
            memo |= {id(v): type(v)() for v in hooks if isinstance(v, dict)}
        layer = copy.deepcopy(self._layer, memo)
        part: Any
        for part in layer.modules():
            if hasattr(part, "attn_impl"):
                part.attn_impl = impl
            if hasattr(part, "shift_size"):
                part.shift_size = shift
        return layer, weights
