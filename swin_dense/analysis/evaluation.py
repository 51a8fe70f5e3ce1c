"""Testing a row's model on the row's data, published scores beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from swin_dense.analysis.paper import WEIGHTS, Row
from swin_dense.checkpoints import cached_path
from swin_dense.datasets.check import check_data
from swin_dense.engine.config.load import load_config
from swin_dense.engine.test import evaluate
from swin_dense.errors import UserError

# Names in mmdet's and mmseg's metrics, and the factor that makes them percent.
_METRICS = {
    "box AP": ("coco/bbox_mAP", 100),
    "mask AP": ("coco/segm_mAP", 100),
    "mIoU": ("mIoU", 1),
}


def missing_for_evaluation(
    row: Row, configs: Path, checkpoint: str | Path | None, data_root: str | Path | None
) -> list[str]:
    """What to put where before a row can be tested; empty when all is there."""
    missing = [] if checkpoint else [_where_to_get_weights(row)]
    try:
        cfg = load_config(configs / f"{row.config}.py", data_root=data_root)
        check_data(cfg, splits=("test",))
    except UserError as error:
        missing.append(str(error))
    return missing


def evaluate_row(row: Row, configs: Path, checkpoint: str | Path, **how: Any) -> dict[str, float]:
    """Tests a row's model as ``tools/test.py`` does.

    Args:
        row: the row.
        configs: the folder of the configs.
        checkpoint: weights of the row's model.
        how: further arguments of :func:`swin_dense.engine.test.evaluate`.

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


def released_weights(row: Row) -> Path | None:
    """The file of the row's released weights; None if there are none, or not on this machine."""
    url = WEIGHTS.get(row.config)
    path = cached_path(url) if url else None
    return path if path and path.is_file() else None


def _where_to_get_weights(row: Row) -> str:
    url = WEIGHTS.get(row.config)
    if url is None:
        return (
            f"no weights of {row.name} were released: train them with tools/train.py "
            f"configs/{row.config}.py and give --checkpoint FILE"
        )
    return (
        f"the weights are missing: download {url} to {cached_path(url)}, or give --checkpoint FILE"
    )


def published_scores(row: Row, tta: bool) -> dict[str, float]:
    """The row's scores in percent, as far as they were measured the same way."""
    miou = row.miou if tta else row.miou_single
    boxes_alike = row.multi_scale_test == tta
    scores = {
        "box AP": row.box if boxes_alike else None,
        "mask AP": row.mask if boxes_alike else None,
        "mIoU": miou,
    }
    return {name: score for name, score in scores.items() if score is not None}


def scores_table(rows: Sequence[Row], measured: Mapping[str, float], tta: bool) -> Table:
    """Measured scores, and those of each of the rows, which share a config."""
    table = Table(title="percent", title_justify="left", header_style="bold")
    table.add_column("score")
    table.add_column("measured", justify="right")
    published = [published_scores(row, tta) for row in rows]
    for row in rows:
        table.add_column(row.table, justify="right")
    for name, score in measured.items():
        beside = (str(scores[name]) if name in scores else "-" for scores in published)
        table.add_row(name, f"{score:.2f}", *beside)
    return table
