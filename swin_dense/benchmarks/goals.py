"""What the backbone is to reach against mmdet's, and the records that say whether it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swin_dense.benchmarks.peers import OURS


@dataclass(frozen=True)
class Goal:
    """A ratio to reach.

    Attributes:
        case: what is measured, in words.
        must, aim: how many times faster than the peer, or the part of its memory.
        kind: of the record.
        device: 'cuda' or 'cpu'.
        settings: that the record has.
        figure: 'forward', 'training' or 'memory' of a backbone, 'training' of a detector,
            'bbox' or 'segm' of an evaluation.
        config: stem of a detector's config.
    """

    case: str
    must: float
    aim: float | None
    kind: str
    device: str
    settings: Mapping[str, Any]
    figure: str
    config: str | None = None

    def measured(self, records: Iterable[Mapping[str, Any]]) -> float | None:
        """The latest record's ratio; None where nothing was measured."""
        fitting = [record for record in records if self._fits(record)]
        if not fitting:
            return None
        record = max(fitting, key=lambda record: record["date"])
        ours, peer = (_contestant(record, names) for names in ((OURS,), ("mmdet", "mmseg")))
        if ours is None or peer is None:
            return None
        if self.figure == "memory":
            return ours["training"]["memory_mb"] / peer["training"]["memory_mb"]
        return peer[self.figure]["times_ours"] if self.figure in peer else None

    def _fits(self, record: Mapping[str, Any]) -> bool:
        found = record["settings"]
        return (
            record["kind"] == self.kind
            and record["machine"]["device"] == self.device
            and (self.config is None or record.get("config") == self.config)
            and not record.get("options")
            and all(found.get(key) == value for key, value in self.settings.items())
        )


def _contestant(record: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any] | None:
    return next((one for one in record["contestants"] if one["name"] in names), None)


def _gpu(arch: str, batch: int = 16, window: int = 7) -> dict[str, Any]:
    size = [800, 1344]
    return {"arch": arch, "window_size": window, "size": size, "batch": batch, "dtype": "bf16"}


_CPU = {"arch": "tiny", "size": [480, 640], "dtype": "fp32"}
_EVALUATION = {"images": 5000, "detections": 100}
_CASCADE = {"size": [800, 1344], "batch": 2}
_UPERNET = {"size": [512, 512], "batch": 16}
_HOPPER = "Hopper, bf16, 800x1344, "
GOALS: tuple[Goal, ...] = (
    *(
        Goal(
            f"{_HOPPER}{arch}, batch 16, forward", 2.7, 4, "backbone", "cuda", _gpu(arch), "forward"
        )
        for arch in ("tiny", "small")
    ),
    *(
        Goal(
            f"{_HOPPER}{arch}, batch 16, training",
            *goal,
            "backbone",
            "cuda",
            _gpu(arch),
            "training",
        )
        for arch, goal in {
            "tiny": (2.4, 3.3),
            "small": (2.4, 3.3),
            "base": (2.2, 3),
            "large": (1.9, 2.5),
        }.items()
    ),
    Goal(
        f"{_HOPPER}tiny, batch 1, forward", 2.5, 3.5, "backbone", "cuda", _gpu("tiny", 1), "forward"
    ),
    Goal(
        f"{_HOPPER}tiny, batch 16, training memory",
        *(0.5, 0.35, "backbone", "cuda", _gpu("tiny"), "memory"),
    ),
    Goal(
        f"{_HOPPER}large, window 12, batch 16, training",
        *(2.3, 3.3, "backbone", "cuda", _gpu("large", window=12), "training"),
    ),
    Goal("CPU, fp32, 480x640, tiny, forward", 1.5, 2.7, "backbone", "cpu", _CPU, "forward"),
    Goal("CPU, fp32, 480x640, tiny, training", 1.3, 2.1, "backbone", "cpu", _CPU, "training"),
    Goal(
        "Hopper, Cascade Mask R-CNN Swin-T, training step",
        *(1.3, 1.6, "detector", "cuda", _CASCADE, "training", "cascade_swin_t_coco"),
    ),
    Goal(
        "Hopper, UperNet Swin-T, training step",
        *(1.3, 1.6, "detector", "cuda", _UPERNET, "training", "upernet_swin_t_ade20k"),
    ),
    *(
        Goal(f"COCO evaluation, {kind}", 3, None, "evaluation", "cpu", _EVALUATION, kind)
        for kind in ("bbox", "segm")
    ),
)
