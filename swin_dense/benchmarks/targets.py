"""The backbone's targets against mmdet's, and the records that say whether they are met."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swin_dense.benchmarks.baselines import OURS, OURS_FP32
from swin_dense.benchmarks.records import machine_text

# Settings of cases that do not name them, and of records from before they existed.
_DEFAULTS: Mapping[str, Any] = {
    "window_size": 7,
    "attn_impl": "auto",
    "cuda_graphs": 0,
    "compile": False,
    "fp32": False,
    "boxes": None,
    "options": "",
}


@dataclass(frozen=True)
class Target:
    """A metric to reach.

    Attributes:
        case: what is measured, in words.
        must, aim: how many times as fast as the baseline; or, if ``at_most``, the part of its
            memory or another metric that should be small.
        kind: of the record.
        metric: 'forward', 'training' or 'memory' of a backbone, or 'forward of fp32', how many
            times as long ours takes in float32; 'training' of a detector,
            'bbox' or 'segm' of an evaluation, 'exponent' of scaling, the model whose memory
            without recomputation was counted, or of passes, such as 'triton block forward gb' or
            'triton backbone training kernels', where the block is of the first stage.
        settings: that the record has, its device and config included; 'range' are the least and
            the largest side of scaling.
        at_most: whether less is better.
        unit: of the metric.
    """

    case: str
    must: float
    aim: float | None
    kind: str
    metric: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    at_most: bool = False
    unit: str = "x"

    def measured(self, records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """The latest value of each machine that has one, by the machine's name."""
        found: dict[str, float] = {}
        for record in sorted(filter(self._fits, records), key=lambda record: record["date"]):
            value = _value(record, self.metric)
            if value is not None:
                found[machine_text(record)] = value
        return dict(sorted(found.items()))

    def _fits(self, record: Mapping[str, Any]) -> bool:
        found: dict[str, Any] = {**_DEFAULTS, **record["settings"], **record["machine"]}
        found |= {key: record[key] for key in ("config", "options") if key in record}
        if "sides" in found:
            found["range"] = [min(found["sides"]), max(found["sides"])]
        wanted = {**_DEFAULTS, **self.settings}
        return record["kind"] == self.kind and all(found.get(k) == v for k, v in wanted.items())


def _value(record: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a record (see :class:`Target`); None where it was not measured."""
    if record["kind"] == "memory":
        rows = (one for one in record["models"] if one["arch"] == metric and not one["with_cp"])
        return next((one[OURS]["image_mb"] for one in rows), None)
    if record["kind"] == "passes":
        impl, part, phase, what = metric.split()
        ours = (one for one in record["models"] if one.get("attn_impl") == impl)
        parts = (one if part == "backbone" else one["blocks"][0] for one in ours)
        return next((one[phase][what] for one in parts), None)
    models = {one["name"]: one for one in record["models"]}
    if record["kind"] == "scaling":
        return models[OURS].get("forward", {}).get(metric)
    if metric == "forward of fp32":
        return models.get(OURS_FP32, {}).get("forward", {}).get("times_ours")
    baseline = models.get("mmdet") or models.get("mmseg")
    if baseline is None:
        return None
    if metric == "memory":
        ours = models[OURS]
        return ours["training"]["memory_mb"] / baseline["training"]["memory_mb"]
    return baseline.get(metric, {}).get("times_ours")


def _gpu(must: float, aim: float, arch: str, metric: str, batch: int = 16, **more: Any) -> Target:
    """A target of the backbone on a GPU of the Hopper generation."""
    window = f", window {more['window_size']}" if "window_size" in more else ""
    graphs = ", CUDA graphs" if "cuda_graphs" in more else ""
    memory = metric == "memory"
    what = "training memory" if memory else metric
    case = f"Hopper, bf16, 800x1344, {arch}{window}, batch {batch}{graphs}, {what}"
    settings = {"arch": arch, "size": [800, 1344], "batch": batch, "dtype": "bf16", **more}
    return Target(case, must, aim, "backbone", metric, settings | {"device": "cuda"}, memory)


def _cpu(must: float, aim: float, metric: str) -> Target:
    settings = {"arch": "tiny", "size": [480, 640], "dtype": "fp32", "device": "cpu"}
    case = f"CPU (set for AMD EPYC), fp32, 480x640, tiny, {metric}"
    return Target(case, must, aim, "backbone", metric, settings)


def _step(case: str, config: str, size: list[int], batch: int) -> Target:
    settings = {"size": size, "batch": batch, "dtype": "bf16", "device": "cuda", "config": config}
    case = f"Hopper, bf16, {case}, {size[0]}x{size[1]}, batch {batch}, training step"
    return Target(case, 1.3, 1.6, "detector", "training", settings)


def _kept(arch: str, megabytes: float) -> Target:
    settings = {"size": [800, 1344], "dtype": "bf16"}
    case = f"kept for backward, bf16, 800x1344, {arch}, per image"
    return Target(case, megabytes, None, "memory", arch, settings, at_most=True, unit=" MB")


def _evaluation(kind: str) -> Target:
    settings = {"images": 5000, "detections": 100}
    return Target(f"COCO evaluation, {kind}", 3, None, "evaluation", kind, settings)


def _passes(must: float, aim: float | None, metric: str) -> Target:
    impl, part, phase, what = metric.split()
    part = "whole backbone" if part == "backbone" else "block of stage 1"
    case = f"bf16, 800x1344, tiny, batch 16, {impl}, {part}, {phase}, counted"
    settings = {"arch": "tiny", "size": [800, 1344], "batch": 16, "dtype": "bf16"}
    unit = " GB" if what == "gb" else " kernels"
    return Target(case, must, aim, "passes", metric, settings, at_most=True, unit=unit)


TARGETS: tuple[Target, ...] = (
    _gpu(2.7, 4, "tiny", "forward"),
    _gpu(2.7, 4, "small", "forward"),
    _gpu(2.4, 3.3, "tiny", "training"),
    _gpu(2.4, 3.3, "small", "training"),
    _gpu(2.2, 3, "base", "training"),
    _gpu(1.9, 2.5, "large", "training"),
    _gpu(2.3, 3.3, "large", "training", window_size=12),
    _gpu(2.5, 3.5, "tiny", "forward", batch=1),
    _gpu(4, 6, "tiny", "forward", batch=1, cuda_graphs=1),
    _gpu(0.5, 0.35, "tiny", "memory"),
    _kept("tiny", 481),
    _kept("small", 871),
    _kept("base", 1159),
    _kept("large", 1838),
    _passes(26, 22, "triton backbone forward gb"),
    _passes(110, 95, "triton backbone training gb"),
    _passes(150, None, "triton backbone forward kernels"),
    _passes(9, None, "triton block forward kernels"),
    _cpu(1.5, 2.7, "forward"),
    _cpu(1.3, 2.1, "training"),
    Target(
        "CPU with AMX or AVX512-BF16, bf16, 480x640, tiny, forward, against ours in fp32",
        *(1.6, None, "backbone", "forward of fp32"),
        {"arch": "tiny", "size": [480, 640], "dtype": "bf16", "device": "cpu", "fp32": True},
    ),
    Target(
        "exponent of time against pixels, 512x512 to 2048x2048, tiny, forward",
        *(1.05, None, "scaling", "exponent", {"arch": "tiny", "range": [512, 2048]}),
        at_most=True,
        unit="",
    ),
    _step("Cascade Mask R-CNN Swin-T", "cascade_swin_t_coco", [800, 1344], 2),
    _step("UperNet Swin-T", "upernet_swin_t_ade20k", [512, 512], 16),
    _evaluation("bbox"),
    _evaluation("segm"),
)
