"""Testing a row's model: scores on the row's data beside the published ones, and speed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from rich.table import Table
from torch import nn

from swin_dense.analysis.building import random_batch
from swin_dense.analysis.paper import Row
from swin_dense.checkpoints import cached_path, load_checkpoint, local_file
from swin_dense.datasets.check import check_data
from swin_dense.engine.config.prepare import load_config
from swin_dense.engine.terminal.tables import terminal_table
from swin_dense.engine.test import evaluate
from swin_dense.engine.weights import load_weights
from swin_dense.errors import UserError

# Names in mmdet's and mmseg's metrics, and the factor that makes them percent.
_METRICS = {
    "box AP": ("coco/bbox_mAP", 100),
    "mask AP": ("coco/segm_mAP", 100),
    "mIoU": ("mIoU", 1),
}


def released_weights(row: Row) -> Path | None:
    """The file of the row's released weights; None if there are none, or not on this machine."""
    path = cached_path(row.weights) if row.weights else None
    return path if path and path.is_file() else None


def missing_for_evaluation(
    row: Row, configs: Path, checkpoint: str | Path | None, data_root: str | Path | None
) -> list[str]:
    """What to put where before a row can be tested; empty when nothing is missing."""
    missing = []
    if not checkpoint and row.weights is None:
        missing.append(
            f"no weights of {row.name} were released: train them with tools/train.py "
            f"configs/{row.config}.py and give --checkpoint FILE"
        )
    elif not checkpoint:
        where = f"download {row.weights} to {cached_path(str(row.weights))}"
        missing.append(f"the weights are missing: {where}, or give --checkpoint FILE")
    try:
        cfg = load_config(configs / f"{row.config}.py", data_root=data_root)
        check_data(cfg, splits=("test",))
    except UserError as error:
        missing.append(str(error))
    return missing


def evaluate_row(row: Row, configs: Path, checkpoint: str | Path, **how: Any) -> dict[str, float]:
    """Test a row's model; ``how`` is passed on to :func:`swin_dense.engine.test.evaluate`.

    Returns:
        'box AP', 'mask AP' and 'mIoU' in percent, those that the row's task has.

    Raises:
        UserError: weights or data are missing or do not fit.
    """
    metrics = evaluate(configs / f"{row.config}.py", checkpoint, **how)
    return {
        name: float(metrics[key]) * factor
        for name, (key, factor) in _METRICS.items()
        if key in metrics
    }


def published_scores(row: Row, tta: bool) -> dict[str, float]:
    """The row's scores in percent, as far as they were measured the same way."""
    scores = {"mIoU": row.miou if tta else row.miou_single}
    if row.multi_scale_test == tta:
        scores |= {"box AP": row.box, "mask AP": row.mask}
    return {name: score for name, score in scores.items() if score is not None}


def scores_table(rows: Sequence[Row], measured: Mapping[str, float], tta: bool) -> Table:
    """Measured scores, and those of each of the rows, which share a config."""
    published = [published_scores(row, tta) for row in rows]
    lines = [
        [name, f"{score:.2f}", *(str(scores.get(name, "-")) for scores in published)]
        for name, score in measured.items()
    ]
    headings = ["score", "measured:", *(f"{row.table}:" for row in rows)]
    return terminal_table(headings, lines, "percent")


def frames_per_second(
    config: str | Path,
    image_size: tuple[int, int],
    device: torch.device,
    checkpoint: str | Path | None = None,
    seconds: float = 10.0,
) -> float:
    """Predictions a second, one image at a time, in float32 and with post-processing; the median.

    The image is noise: with trained weights or without, hardly anything is found in it, so a
    detector has no masks to paste.

    Args:
        image_size: height and width in pixels.
        checkpoint: weights; random ones without it.
        seconds: how long to measure at least, after a warm-up.

    Raises:
        UserError: config or checkpoint are missing or do not fit each other.
    """
    from torch.utils.benchmark import Timer  # warns of missing GPUs when it is imported

    cfg = load_config(config, from_scratch=True)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model: nn.Module = revert_sync_batchnorm(MODELS.build(cfg.model))
        if checkpoint is not None:
            load_weights(model, load_checkpoint(local_file(str(checkpoint))), str(checkpoint))
        model.to(device).eval()
        names = {"model": model, "batch": random_batch(cfg, image_size, images=1)}
        step = Timer("model.test_step(batch)", globals=names)
        with torch.inference_mode():
            return 1 / step.blocked_autorange(min_run_time=seconds).median
