"""Tables 4 to 6 of the paper: what shifting, position terms and kinds of attention contribute.

The attention of a shifted window meets the edges of the feature map in one of two ways. Padding
fills each part of a window that the edge cuts off, so that an (h, w) grid of windows becomes one
of (h + 1, w + 1); the cyclic shift joins these parts to whole windows and masks what does not
belong together (section 3.2, "efficient batch computation"). The results are the same.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.analysis.counting import Counts, count_config
from swin_dense.backbones.layers import Attention
from swin_dense.backbones.swin import SlidingWindowAttention, WindowAttention
from swin_dense.engine.config.prepare import load_config
from swin_dense.ops.dispatch import AttnImpl
from swin_dense.ops.window_attention import windows

TABLE_4 = "table_4_ablation_swin_t"
TABLE_5 = "table_5_speed_v100"
TABLE_6 = "table_6_attention_swin_t"
_SHIFT, _BIAS_TABLE, _ABSOLUTE, _PRODUCT = (
    f"model.backbone.{name}"
    for name in ("use_shift", "use_rel_pos_bias", "use_abs_pos_embed", "use_dot_product")
)
# By the table's name: config options that differ from the default; box and mask AP on COCO and
# mIoU on ADE20K, as published.
VARIANTS: dict[str, tuple[dict[str, bool], tuple[float, float, float]]] = {
    "w/o shifting": ({_SHIFT: False}, (47.7, 41.5, 43.3)),
    "shifted windows": ({}, (50.5, 43.7, 46.1)),
    "no pos.": ({_BIAS_TABLE: False}, (49.2, 42.6, 43.8)),
    "abs. pos.": ({_BIAS_TABLE: False, _ABSOLUTE: True}, (49.0, 42.4, 43.2)),
    "abs.+rel. pos.": ({_ABSOLUTE: True}, (50.2, 43.4, 44.0)),
    "rel. pos. w/o app.": ({_PRODUCT: False}, (48.2, 41.9, 44.1)),
    "rel. pos.": ({}, (50.5, 43.7, 46.1)),
}
# The same of table 6. Performer has no scores on COCO and ADE20K.
ATTENTIONS: dict[str, tuple[dict[str, str], tuple[float, float, float]]] = {
    "sliding window": ({"model.backbone.attention": "sliding"}, (50.2, 43.5, 45.8)),
    "shifted window": ({}, (50.5, 43.7, 46.1)),
}
# Top-1 and top-5 accuracy on ImageNet in table 6, in percent, as published.
IMAGENET = {
    "sliding window": (81.4, 95.6),
    "Performer": (79.0, 94.2),
    "shifted window": (81.3, 95.6),
}
# The tiles of the fast form compute scores that they mask; these do not.
_COUNTED = {"sliding window": {"model.backbone.attn_impl": "reference"}}
METHODS = {"cascade_swin_t_coco": "Cascade Mask R-CNN", "upernet_swin_t_ade20k": "UperNet"}
# Milliseconds of stages 1 to 4, images per second of Swin-T, -S and -B, on a V100, as published.
PAPER_SPEED = {
    "sliding window (naive)": ((122.5, 38.3, 12.1, 7.6), (183, 109, 77)),
    "sliding window (kernel)": ((7.6, 4.7, 2.7, 1.8), (488, 283, 187)),
    "Performer": ((4.8, 2.8, 1.8, 1.5), (638, 370, 241)),
    "window (w/o shifting)": ((2.8, 1.7, 1.2, 0.9), (770, 444, 280)),
    "shifted window (padding)": ((3.3, 2.3, 1.9, 2.2), (670, 371, 236)),
    "shifted window (cyclic)": ((3.0, 1.9, 1.3, 1.0), (755, 437, 278)),
}
# Neither its features nor what takes the place of the position bias are published.
NOT_BUILT = "Performer"
# Swin-T on 224 x 224 pixels: side of the feature map in tokens, channels, heads.
STAGES = ((56, 96, 3), (28, 192, 6), (14, 384, 12), (7, 768, 24))
_WINDOW = 7


_TABLES: dict[str, Mapping[str, tuple[Mapping[str, Any], tuple[float, float, float]]]] = {
    TABLE_4: VARIANTS,
    TABLE_6: ATTENTIONS,
}


@dataclass(frozen=True)
class Variant:
    """A variant of table 4 or 6 on one of the two tasks, and its counts."""

    name: str
    config: str
    counts: Counts

    @property
    def table(self) -> str:
        """The table that has it."""
        return TABLE_6 if self.name in ATTENTIONS else TABLE_4

    @property
    def options(self) -> Mapping[str, Any]:
        """``--cfg-options`` that make the config this variant."""
        return _TABLES[self.table][self.name][0]

    @property
    def paper(self) -> dict[str, float]:
        """The published scores of this task, in percent."""
        box, mask, miou = _TABLES[self.table][self.name][1]
        if METHODS[self.config] == "UperNet":
            return {"mIoU": miou}
        return {"box AP": box, "mask AP": mask}

    def as_json(self) -> dict[str, Any]:
        """The variant as ``--json`` writes it, with the keys of a row."""
        return {
            "row": self.config.rpartition("_")[0],
            "table": self.table,
            "method": METHODS[self.config],
            "backbone": "Swin-T",
            "variant": self.name,
            "config": f"configs/{self.config}.py",
            "cfg_options": dict(self.options),
            "crop": 512 if METHODS[self.config] == "UperNet" else None,
            "image_size": list(self.counts.image_size),
            "params_m": round(self.counts.params_m, 2),
            "paper_params_m": None,
            "flops_g": round(self.counts.flops_g, 1),
            "paper_flops_g": None,
            "paper_scores": self.paper,
        }


def count_variants(configs: Path, methods: Iterable[str] = METHODS) -> Iterator[Variant]:
    """Count the variants of tables 4 and 6, for configs of :data:`METHODS` in ``configs``."""
    for variants in _TABLES.values():
        for config in methods:
            for name, (options, _) in variants.items():
                counted = {**options, **_COUNTED.get(name, {})}
                counts = count_config(load_config(configs / f"{config}.py", counted))
                yield Variant(name, config, counts)


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds that one attention layer of each stage takes, a row of table 5."""

    kind: str
    milliseconds: tuple[float, ...] | None
    """None if they were not measured, as Performer's never are."""

    @property
    def paper(self) -> tuple[float, ...]:
        """The published ones, on a V100."""
        return PAPER_SPEED[self.kind][0]

    @property
    def paper_fps(self) -> tuple[int, ...]:
        """Published images per second of whole classifiers T, S and B, on a V100."""
        return PAPER_SPEED[self.kind][1]

    @property
    def remark(self) -> str:
        """Why there are no milliseconds; empty if there are."""
        if self.kind == NOT_BUILT:
            return "not specified, not built"
        return "not measured" if self.milliseconds is None else ""

    def as_json(self, measured_on: str) -> dict[str, Any]:
        """The times as ``--json`` writes them, with the keys of a row."""
        counted = ("config", "crop", "params_m", "paper_params_m", "flops_g", "paper_flops_g")
        return {
            "table": TABLE_5,
            "method": self.kind,
            "backbone": "Swin-T",
            **dict.fromkeys(counted),
            "stage_ms": self.milliseconds and [round(ms, 3) for ms in self.milliseconds],
            "paper_stage_ms_v100": list(self.paper),
            "paper_fps_v100": dict(zip("TSB", self.paper_fps, strict=True)),
            "remarks": self.remark,
            "measured_on": measured_on if self.milliseconds else None,
        }


def measure_stages(
    device: torch.device, batch: int, seconds: float = 0.2, rounds: int = 10
) -> list[StageTimes]:
    """Time the layers of Swin-T on 224 x 224 pixels in float32, forward only.

    The kinds take turns, each for ``seconds`` or more, and the fastest round counts, so that other
    work on the machine disturbs the comparison little.
    """
    from torch.utils.benchmark import Timer  # warns of missing GPUs when it is imported

    times: dict[str, list[float]] = {kind: [] for kind in PAPER_SPEED if kind != NOT_BUILT}
    for side, channels, heads in STAGES:
        x = torch.randn(batch, side, side, channels, device=device)
        timers = {}
        for kind in times:
            layer = _layer(kind, channels, heads).to(device).eval()
            # On a CPU one thread, its default: threads that wait for others would be timed too.
            timers[kind] = Timer("layer(x)", globals={"layer": layer, "x": x})
        with torch.inference_mode():
            measured = [
                {k: t.blocked_autorange(min_run_time=seconds).median for k, t in timers.items()}
                for _ in range(rounds)
            ]
        for kind, milliseconds in times.items():
            milliseconds.append(1e3 * min(turn[kind] for turn in measured))
    found = {kind: tuple(milliseconds) for kind, milliseconds in times.items()}
    return [StageTimes(kind, found.get(kind)) for kind in PAPER_SPEED]


def _layer(kind: str, channels: int, num_heads: int) -> Attention:
    """An attention layer of Swin-T of a kind in table 5."""
    common: dict[str, Any] = {
        "qkv_bias": True,
        "use_rel_pos_bias": True,
        "attn_drop_rate": 0.0,
        "drop_rate": 0.0,
        # All that shift, so that only the shift differs.
        "attn_impl": AttnImpl("sdpa" if kind == "sliding window (kernel)" else "reference"),
    }
    if kind.startswith("sliding window"):
        return SlidingWindowAttention(channels, num_heads, _WINDOW, **common)
    layer = _PaddedAttention if kind == "shifted window (padding)" else WindowAttention
    shift_size = 0 if kind == "window (w/o shifting)" else _WINDOW // 2
    return layer(channels, num_heads, _WINDOW, shift_size, **common)


class _PaddedAttention(WindowAttention):
    """The backbone's attention layer, shifting by :func:`padded_window_attention`."""

    def forward(self, x: Tensor, impl: AttnImpl | None = None) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``; ``impl`` has no effect."""
        sizes = (self.num_heads, self.window_size, self.shift_size, self.scale)
        qkv = self.qkv(x)
        return self.proj(padded_window_attention(qkv, self.qkv.bias, self.position_bias(), *sizes))


def padded_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
    scale: float,
) -> Tensor:
    """Shifted-window attention that pads the windows at the edges instead of joining them.

    Arguments and result are those of :func:`~.api.shifted_window_attention`.
    """
    h, w = qkv.shape[1:3]
    m, before = window_size, window_size - shift_size
    spec = windows.WindowSpec(num_heads, m, 0, scale)
    qkv = windows.pad_with_bias(qkv, qkv_bias, m)
    rows, columns = qkv.shape[1:3]
    # The first shifted window starts M - shift before the map, the last ends shift behind it.
    edges = (0, 0, before, shift_size, before, shift_size)
    qkv = F.pad(qkv, edges)
    inside = F.pad(qkv.new_zeros(1, rows, columns, 1), edges, value=-100.0)
    mask = windows.partition(inside, m)[0].transpose(1, 2)
    q, k, v = windows.to_windows(qkv, qkv_bias, spec)
    scores = (q * scale) @ k.transpose(-2, -1)
    if position_bias is not None:
        scores = scores + position_bias
    weights = (scores + mask[:, None]).softmax(dim=-1)
    out = windows.from_windows(weights @ v, rows + m, columns + m, spec)
    return out[:, before : before + h, before : before + w]
