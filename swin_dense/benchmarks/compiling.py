"""What torch.compile makes of a training step: graphs, graph breaks, and the same losses or not."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from swin_dense.analysis.building import random_batch
from swin_dense.analysis.parity import build_optimizer
from swin_dense.benchmarks.detector import build_model
from swin_dense.engine.config.pretrained import drop_pretrained
from swin_dense.ops.dispatch import compiler_counts

PARTS = ("backbone", "step")
_STEPS = 4


def measure_compile(
    configs: Mapping[str, Config],
    size: tuple[int, int],
    images: int,
    backend: str,
    parts: Sequence[str],
) -> dict[str, Any]:
    """Train every config's model for four steps on one batch of noise, eager and compiled.

    Args:
        configs: of detectors and segmentors, by name.
        size: height and width of the images in pixels.
        images: in the batch.
        backend: of torch.compile.
        parts: what is compiled, of 'backbone' (what ``tools/train.py --compile`` does) and 'step'
            (mmengine's ``compile=True``).

    Returns:
        ``settings`` and ``models``: for each config and part the numbers of ``graphs`` and
        ``breaks``, and the ``losses`` of all steps, compiled and ``eager``.
    """
    models = []
    for name, cfg in configs.items():
        cfg = copy.deepcopy(cfg)
        drop_pretrained(cfg)
        batch = random_batch(cfg, size, images)
        eager = _train(cfg, batch, None, backend)
        for part in parts:
            before = compiler_counts()
            losses = _train(cfg, batch, part, backend)
            graphs, breaks = (b - a for a, b in zip(before, compiler_counts(), strict=True))
            counts = {"part": part, "graphs": graphs, "breaks": breaks}
            models.append({"name": name, **counts, "losses": losses, "eager": eager})
    settings = {"size": list(size), "batch": images, "backend": backend}
    return {"settings": settings, "models": models}


def _train(cfg: Config, batch: dict[str, Any], part: str | None, backend: str) -> list[float]:
    """Losses of the steps."""
    torch.compiler.reset()
    model: Any = build_model(cfg, torch.device("cpu")).train()
    step, optimizer = model.train_step, build_optimizer(model, cfg)
    if part == "backbone":
        model.backbone.compile(backend=backend)
    elif part == "step":
        step = torch.compile(step, backend=backend)
    torch.manual_seed(1)
    np.random.seed(1)
    return [float(step(copy.deepcopy(batch), optimizer)["loss"]) for _ in range(_STEPS)]


def compile_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Headings, and a row of cells for each config and part."""
    rows = [["", "graphs", "graph breaks", "loss differs", "at all steps"]]
    parts = {"backbone": "backbone", "step": "whole step"}
    for one in record["models"]:
        differences = [
            abs(a - b) / abs(b) for a, b in zip(one["losses"], one["eager"], strict=True)
        ]
        cells = [str(one["graphs"]), str(one["breaks"])]
        cells += [f"{value:.0e}" for value in (differences[0], max(differences))]
        rows.append([f"{one['name']}, {parts[one['part']]}", *cells])
    return rows


def compile_notes(record: Mapping[str, Any]) -> list[str]:
    """What the columns are."""
    return [
        f"{_STEPS} training steps on one batch of noise, in float32, from the same weights and "
        "random numbers: by how much the loss of the first step differs from eager, over that, "
        "and of any step at most. 'inductor' draws other random numbers for stochastic depth."
    ]
