"""Published and counted figures side by side: on the terminal, as JSON, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from swin_dense.analysis.reproduction import Reproduced

TITLES = {
    "table_2a": "Table 2a: frameworks, COCO",
    "table_2b": "Table 2b: backbones, COCO",
    "table_2c": "Table 2c: systems, COCO",
    "table_3": "Table 3: ADE20K",
    "official_results_not_in_tables": "Official results that are in no table",
    "not_published": "Not published",
}


def as_json(result: Reproduced) -> dict[str, Any]:
    """A row as ``--json`` writes it; ``paper_`` is published, the rest counted or said."""
    row = result.row
    return {
        "row": row.name,
        "table": row.table,
        "method": row.method,
        "backbone": row.backbone,
        "config": f"configs/{row.config}.py",
        "crop": row.crop,
        "schedule": row.schedule,
        "multi_scale_test": row.multi_scale_test,
        "image_size": list(result.counts.image_size),
        "params_m": round(result.params_m, 2),
        "paper_params_m": row.params_m,
        "flops_g": round(result.flops_g, 1),
        "paper_flops_g": row.flops_g,
        "paper_fps_v100": row.fps,
        "paper_box_ap": row.box,
        "paper_mask_ap": row.mask,
        "paper_miou": row.miou,
        "paper_miou_single": row.miou_single,
        "remarks": result.remarks(),
    }


def terminal_tables(results: Sequence[Reproduced]) -> list[Table]:
    """A table for each table of the paper, remarks below the row that they are about."""
    tables = []
    for name, group in groupby(results, lambda result: result.row.table):
        table = Table(title=TITLES[name], title_justify="left", header_style="bold")
        table.add_column("row")
        for heading in ("M", "paper", "G", "paper"):
            table.add_column(heading, justify="right")
        for result in group:
            row = result.row
            label = row.name + (" *" if row.multi_scale_test else "")
            remarks = result.remarks()
            table.add_row(
                f"{label}\n[dim]{remarks}[/dim]" if remarks else label,
                f"{result.params_m:.1f}",
                figure(row.params_m),
                f"{result.flops_g:.0f}",
                figure(row.flops_g),
            )
        tables.append(table)
    return tables


def figure(value: float | None) -> str:
    """A published figure as it was published; '-' for none."""
    return "-" if value is None else str(value)
