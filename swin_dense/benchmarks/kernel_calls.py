"""The calls of the package that launch Triton kernels, and other schedules for them.

Sizes are those of a training step of Swin at 800 x 1344, batch 16: attention on the feature map of
stage 1 for windows of several sizes; norms, linear layers and MLPs at every width of Swin-T, S, B
and L.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swin_dense.benchmarks.kernel_code import Launch, Target, record_launches
from swin_dense.benchmarks.measurement import Step
from swin_dense.errors import UserError
from swin_dense.ops.block.layers import Linear, Norm
from swin_dense.ops.block.triton.support import MOST_SUMMED, PRODUCT_WIDTHS, WIDE_WIDTHS
from swin_dense.ops.window_attention.windows import WindowSpec, padded_size

BATCH = 16
STAGE_1 = (200, 336)
WINDOWS = (7, 8, 12, 16)
CASES = ("plain", "padded", "shifted, padded")
# Widths of the stages of Swin-T (and S), B and L; of a width that two have, the first counts.
WIDTHS = ((96, 192, 384, 768), (128, 256, 512, 1024), (192, 384, 768, 1536))
_ROWS = (
    *("layer_norm", "add_layer_norm", "add", "layer_norm_backward"),
    *("gelu", "gelu_backward", "branch_gradient"),
)
_MAPS = ("output norm", "patch merging norm", "patch embedding norm")
_LINEAR = (
    "norm_linear",
    "linear_residual",
    "norm_linear_gelu",
    "residual_linear",
    "gelu_linear_backward",
)
_PRODUCTS = ("mlp", "mlp_backward")
# Functions of the modules that launch, which choose tiles, warps and stages.
_SCHEDULES = {
    "window_attention": ("schedule", "tiles"),
    "block": (
        *("norm_schedule", "linear_schedule", "linear_backward_schedule"),
        *("residual_schedule", "mlp_schedule"),
    ),
    "maps": ("map_schedule",),
}


class Inputs(NamedTuple):
    """Makes random tensors: in ``dtype`` where none is given."""

    dtype: torch.dtype
    device: torch.device

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor."""
        return torch.randn(shape, dtype=dtype or self.dtype, device=self.device)

    def norm(self, channels: int) -> Norm:
        """A LayerNorm, whose parameters are in fp32."""
        one, zero = (self(channels, dtype=torch.float32) for _ in range(2))
        return Norm(one, zero, 1e-5)

    def linear(self, features: int, channels: int) -> Linear:
        """A linear layer."""
        return Linear(self(features, channels), self(features))


@dataclass(frozen=True)
class Call:
    """A call of the package that launches kernels.

    Attributes:
        name: what it computes and of what size.
        group: calls that are timed in turns.
        prepare: makes its tensors and returns the call itself.
    """

    name: str
    group: str
    prepare: Callable[[Inputs], Step]

    def launches(self, step: Step, target: Target) -> dict[str, Launch]:
        """The kernels of what ``prepare`` returned by their names, compiled for a target.

        Raises:
            UserError: Triton cannot compile one.
        """
        try:
            found = record_launches(step, target)
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self.name} does not compile for {target.name}: {reason}") from error
        several = len(found) > 1
        return {f"{self.name}, {x.name}" if several else self.name: x for x in found}


def _launch_module(name: str) -> ModuleType:
    # These import Triton, which need not be installed.
    if name == "window_attention":
        from swin_dense.ops.window_attention.triton import launch as attention_launch

        return attention_launch
    if name == "maps":
        from swin_dense.ops.block.triton import maps

        return maps
    from swin_dense.ops.block.triton import launch as block_launch

    return block_launch


def all_calls() -> list[Call]:
    """Every kernel of the package, in every size that the models have."""
    found = []
    for window, case in itertools.product(WINDOWS, CASES):
        for direction in ("forward", "backward"):
            prepare = partial(_attention, direction, window, case)
            name = f"attention {direction} M={window} {case}"
            found.append(Call(name, f"attention M={window}", prepare))
    # The first of the models that has a width tells its number of rows.
    stages = {c: stage for model in reversed(WIDTHS) for stage, c in enumerate(model)}
    for width in dict.fromkeys(itertools.chain(*WIDTHS)):
        names = _ROWS + (_PRODUCTS if width in PRODUCT_WIDTHS else ())
        names += _LINEAR if width in PRODUCT_WIDTHS + WIDE_WIDTHS else ()
        names += ("norm_linear_backward",) if width <= MOST_SUMMED else ()
        for name in names:
            prepare = partial(_block, name, width, stages[width])
            found.append(Call(f"{name} C={width}", f"C={width}", prepare))
        # Patches are embedded before the first stage, and merged after all but the last.
        last = 3 if stages[width] == 0 else 1 if stages[width] == 3 else 2
        for name, direction in itertools.product(_MAPS[:last], ("forward", "backward")):
            prepare = partial(_map, name, direction, width, stages[width])
            found.append(Call(f"{name} {direction} C={width}", f"C={width}", prepare))
    return found


def _attention(direction: str, window: int, case: str, make: Inputs) -> Step:
    module = _launch_module("window_attention")
    height, width = padded_size(*STAGE_1, window)
    if case != "plain":
        height, width = height - 1, width - 1
    heads, channels = 3, 96
    spec = WindowSpec(heads, window, window // 2 if "shifted" in case else 0, 32**-0.5)
    qkv = make(BATCH, height, width, 3 * channels)
    qkv_bias = make(3 * channels, dtype=torch.float32)
    position_bias = make(heads, window**2, window**2, dtype=torch.float32)
    if direction == "forward":
        return lambda: module.forward(qkv, qkv_bias, position_bias, spec)
    d_out = make(BATCH, height, width, channels)
    return lambda: module.backward(d_out, qkv, qkv_bias, position_bias, spec, True, True)


def _block(name: str, channels: int, stage: int, make: Inputs) -> Step:
    """A function of the block on rows of a stage; the residual stream of stage 1 is in fp32."""
    module, c = _launch_module("block"), channels
    function = getattr(module, name)
    rows = BATCH * math.prod(-(-side // 2**stage) for side in STAGE_1)
    stream = torch.float32 if stage == 0 else make.dtype
    x, scale, norm = make(rows, c, dtype=stream), make(BATCH, dtype=torch.float32), make.norm(c)
    if name == "layer_norm":
        return lambda: function(x, norm, make.dtype)
    if name == "norm_linear":
        linear = make.linear(3 * c, c)
        return lambda: function(x, norm, linear)
    if name == "norm_linear_gelu":
        linear = make.linear(4 * c, c)
        return lambda: function(x, norm, linear, True)
    if name == "gelu_linear_backward":
        weight, h = make(c, 4 * c), make(rows, 4 * c)
        return lambda: function(x, scale, weight, h)
    if name == "norm_linear_backward":
        dy, weight = make(rows, 3 * c), make(3 * c, c)
        return lambda: function(dy, x, norm, weight, x)
    if name in ("mlp", "mlp_backward"):
        layers = make.linear(4 * c, c), make.linear(c, 4 * c)
        if name == "mlp":
            return lambda: function(x, scale, norm, *layers)
        dy = make(rows, c, dtype=stream)
        return lambda: function(x, dy, (scale, scale), norm, *layers)
    if name == "branch_gradient":
        return lambda: function(x, scale, make.dtype)
    if name.startswith("gelu"):
        hidden = [make(rows, 4 * c) for _ in range(2 if name == "gelu_backward" else 1)]
        return lambda: function(*hidden)
    y = make(rows, c)
    if name == "add_layer_norm":
        return lambda: function(x, y, scale, norm, make.dtype)
    if name == "add":
        return lambda: function(x, y, scale)
    if name == "linear_residual":
        linear = make.linear(c, c)
        return lambda: function(y, linear, x, scale)
    if name == "residual_linear":
        linear, h = make.linear(c, 4 * c), make(rows, 4 * c)
        return lambda: function(h, linear, x, scale)
    d_residual = make(rows, c, dtype=stream)
    return lambda: function(y, x, norm, d_residual, scale, make.dtype)


def _map(name: str, direction: str, channels: int, stage: int, make: Inputs) -> Step:
    """A norm that moves what it reads, in fp32 where autocast has it so."""
    module, c = _launch_module("maps"), channels
    height, width = (-(-side // 2**stage) for side in STAGE_1)
    wide, stream = torch.float32, torch.float32 if stage == 0 else make.dtype
    x = make(BATCH, height, width, c, dtype=stream)
    if name == "patch merging norm":
        norm, merged = make.norm(4 * c), make(BATCH, -(-height // 2), -(-width // 2), 4 * c)
        if direction == "forward":
            return lambda: module.merged_layer_norm(x, norm, make.dtype)
        return lambda: module.merged_layer_norm_backward(merged, x, norm, x)
    norm, first = make.norm(c), name == "output norm"
    if not first:
        x = make(BATCH, c, height, width).permute(0, 2, 3, 1)
    if direction == "forward":
        return lambda: module.layer_norm_map(x, norm, wide, first)
    sizes = (c, height, width) if first else (height, width, c)
    d_out = make(BATCH, *sizes, dtype=wide)
    return lambda: module.layer_norm_map_backward(d_out, x, norm, first)


Changes = Mapping[str, Mapping[str, Any]]


@contextmanager
def changed_schedules(changes: Changes) -> Iterator[dict[str, Any]]:
    """Has schedule functions return other values, for the keys in ``changes`` of their names.

    Yields what those that are called return without the changes, by name.
    """
    seen: dict[str, Any] = {}

    def change(name: str, function: Callable[..., Any], *args: Any) -> Any:
        seen[name] = found = function(*args)
        more = changes.get(name, {})
        return {**found, **more} if isinstance(found, dict) else found._replace(**more)

    with ExitStack() as stack:
        for module, names in ((_launch_module(key), names) for key, names in _SCHEDULES.items()):
            for name in names:
                function = getattr(module, name)
                stack.callback(setattr, module, name, function)
                setattr(module, name, partial(change, name, function))
        yield seen


def other_schedules(defaults: Mapping[str, Any]) -> Iterable[Changes]:
    """Changes to try, given what :func:`changed_schedules` found without any."""
    choices = []
    for name, default in defaults.items():
        found = _tile_changes(default) if name == "tiles" else _dict_changes(default)
        choices.append([(name, change) for change in found])
    return map(dict, itertools.product(*choices))


def _dict_changes(default: Mapping[str, int]) -> list[dict[str, int]]:
    """Warps and stages; half and twice the rows; chunks that divide the features."""
    options: dict[str, Iterable[int]] = {"num_warps": (4, 8)}
    if "num_stages" in default:
        options["num_stages"] = (1, 2, 3)
    if "ROWS" in default:
        least = 16 if "CHUNK" in default else 1  # sides of products are 16 or more
        rows = default["ROWS"]
        options["ROWS"] = [r for r in (rows // 2, rows, 2 * rows) if r >= least]
    if "CHUNK" in default:
        features = default.get("HIDDEN") or default["FEATURES"]
        options["CHUNK"] = [chunk for chunk in (32, 64) if features % chunk == 0]
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]


def _tile_changes(default: Any) -> list[dict[str, Any]]:
    """Tiles of attention; those of different kernels change at the same time."""
    if default.keys == (default.forward,):
        return [{}]  # a window is one tile
    owned = [
        dict.fromkeys(("forward", "backward_queries", "backward_keys"), n) for n in (16, 32, 64)
    ]
    cuts = [{"queries": queries} for queries in dict.fromkeys((default.queries, default.keys))]
    return [one | cut for one, cut in itertools.product(owned, cuts)]
