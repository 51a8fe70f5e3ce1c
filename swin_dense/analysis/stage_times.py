"""Table 5 of the paper: milliseconds of window attention, by stage and by way of shifting.

The attention of a shifted window meets the edges of the map in one of two ways. Padding fills
each part of a window that the edge cuts off, so that an (h, w) grid of windows becomes one of
(h + 1, w + 1); the cyclic shift joins these parts to whole windows and masks what does not belong
together (section 3.2, "efficient batch computation"). The results are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.backbones.swin import WindowAttention
from swin_dense.ops.dispatch import AttnImpl
from swin_dense.ops.window_attention import windows

TABLE = "table_5_speed_v100"
# Milliseconds of stages 1 to 4 on a V100, as published.
PAPER = {
    "window (w/o shifting)": (2.8, 1.7, 1.2, 0.9),
    "shifted window (padding)": (3.3, 2.3, 1.9, 2.2),
    "shifted window (cyclic)": (3.0, 1.9, 1.3, 1.0),
}
# Swin-T on 224 x 224 pixels: side of the map in tokens, channels, heads.
STAGES = ((56, 96, 3), (28, 192, 6), (14, 384, 12), (7, 768, 24))
_WINDOW = 7


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds that one attention layer of each stage takes."""

    kind: str
    milliseconds: tuple[float, ...]

    @property
    def paper(self) -> tuple[float, ...]:
        """The published ones, on a V100."""
        return PAPER[self.kind]


class _PaddedAttention(WindowAttention):
    """The backbone's attention layer, shifting by :func:`padded_window_attention`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        out = padded_window_attention(
            self.qkv(x),
            self.qkv.bias,
            self.position_bias(),
            self.num_heads,
            self.window_size,
            self.shift_size,
            self.scale,
        )
        return self.proj(out)


def _layer(kind: str, channels: int, num_heads: int) -> WindowAttention:
    """An attention layer of Swin-T that shifts its windows as ``kind`` says."""
    layer = _PaddedAttention if kind == "shifted window (padding)" else WindowAttention
    return layer(
        channels,
        num_heads,
        _WINDOW,
        0 if kind == "window (w/o shifting)" else _WINDOW // 2,
        qkv_bias=True,
        scale=(channels // num_heads) ** -0.5,
        use_rel_pos_bias=True,
        attn_drop_rate=0.0,
        drop_rate=0.0,
        attn_impl=AttnImpl("reference"),  # plain PyTorch all three, so that only the shift differs
    )


def measure_stages(
    device: torch.device, batch: int, seconds: float = 0.2, rounds: int = 10
) -> list[StageTimes]:
    """Times the layers of Swin-T on 224 x 224 pixels in float32, forward only.

    The kinds take turns, and the fastest round counts, so that what else the machine does
    disturbs the comparison little.

    Args:
        device: where to run.
        batch: images at a time.
        seconds: how long each layer is measured at least, in each round.
        rounds: how often each layer is measured.
    """
    times: dict[str, list[float]] = {kind: [] for kind in PAPER}
    for side, channels, heads in STAGES:
        x = torch.randn(batch, side, side, channels, device=device)
        timers = {kind: _timer(_layer(kind, channels, heads).to(device), x) for kind in PAPER}
        with torch.inference_mode():
            taken = [
                {k: t.blocked_autorange(min_run_time=seconds).median for k, t in timers.items()}
                for _ in range(rounds)
            ]
        for kind in PAPER:
            times[kind].append(1e3 * min(turn[kind] for turn in taken))
    return [StageTimes(kind, tuple(milliseconds)) for kind, milliseconds in times.items()]


def _timer(layer: WindowAttention, x: Tensor) -> Any:
    from torch.utils.benchmark import Timer  # warns of missing GPUs when it is imported

    # On a CPU one thread, its default: threads that wait for others would be timed as well.
    return Timer("layer(x)", globals={"layer": layer.eval(), "x": x})


def padded_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor | None,
    position_bias: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
    scale: float,
) -> Tensor:
    """Shifted-window attention that fills up the windows at the edges instead of joining them.

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
