"""Tensors that the backbone keeps for backward, of an image: ours and mmdet's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from swin_dense.benchmarks.agreement import DTYPES, precision
from swin_dense.benchmarks.backbone import Run, check_agreement, settings
from swin_dense.benchmarks.baselines import Spec, build_contestants
from swin_dense.benchmarks.costs import kept_for_backward

_PEER = "mmdet"
# Whatever the size, mmdet's outputs are ours, and as much is kept once.
_SMALL = (64, 96)


def measure_memory(specs: Mapping[str, Spec], version: str, run: Run) -> dict[str, Any]:
    """Count, with and without recomputation (``with_cp``), what a training forward keeps.

    Args:
        specs: models by name, alike but for channels, depths and heads.
        version: mmdet's.
        run: how to measure; rounds do not matter.

    Returns:
        ``settings``, and ``models``: for each its ``arch``, ``with_cp``, ``difference``, and of
        'ours' and 'mmdet' ``image_mb`` for each image and ``once_mb``, whatever the batch, such as
        weights in lower precision. Megabytes are 1e6 bytes.

    Raises:
        UserError: outputs disagree; nothing is counted then.
    """
    models = []
    for arch, spec in specs.items():
        small = replace(spec, size=_SMALL)
        found = check_agreement(small, [_PEER], run)[_PEER]
        for with_cp in (False, True):
            contestants = build_contestants(replace(spec, with_cp=with_cp), [_PEER], run.device)
            kept = {name: _kept(model, spec.size, run) for name, model in contestants.items()}
            difference = found["difference"]
            models.append({"arch": arch, "with_cp": with_cp, "difference": difference, **kept})
    shared = settings(next(iter(specs.values())), run)
    for own in ("embed_dims", "depths", "num_heads", "with_cp", "rounds"):
        del shared[own]
    return {
        "settings": shared | {"arch": ",".join(specs)},
        "peer": {"name": _PEER, "version": version},
        "models": models,
    }


def _kept(model: nn.Module, size: tuple[int, int], run: Run) -> dict[str, float]:
    one, two = (_forward(model, _SMALL, run, batch) for batch in (1, 2))
    once = 2 * one - two
    image = (_forward(model, size, run, run.batch) - once) / run.batch
    return {"image_mb": round(image / 1e6, 3), "once_mb": round(once / 1e6, 3)}


def _forward(model: nn.Module, size: tuple[int, int], run: Run, batch: int) -> int:
    """Bytes that forward keeps. Backward is left out: what it recomputes it keeps for a moment."""
    image = run.image(size, batch)
    model.train()

    def step() -> None:
        with warnings.catch_warnings(), precision(DTYPES[run.dtype], run.device):
            # mmdet leaves it to PyTorch how blocks are recomputed, and PyTorch warns of that
            warnings.filterwarnings("ignore", ".*use_reentrant")
            model(image)

    return kept_for_backward(model, step)
