"""The ablations of tables 4 and 5 on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from swin_dense.analysis.ablation import METHODS, Variant
from swin_dense.analysis.stage_times import TABLE, StageTimes


def options_text(variant: Variant) -> str:
    """The variant's ``--cfg-options``, as they are typed."""
    return " ".join(f"{key}={value}" for key, value in variant.options.items())


def scores_text(variant: Variant) -> str:
    """The variant's published scores."""
    return ", ".join(f"{name} {score}" for name, score in variant.paper.items())


def variants_table(variants: Sequence[Variant]) -> Table:
    """Table 4's variants, the options of each below its name."""
    table = Table(title="Table 4: ablations on Swin-T", title_justify="left", header_style="bold")
    table.add_column("config, variant", overflow="fold")
    table.add_column("M", justify="right")
    table.add_column("G", justify="right")
    table.add_column("paper")
    for config in METHODS:
        table.add_row(f"[bold]configs/{config}.py[/bold]")
        for variant in (v for v in variants if v.config == config):
            options = options_text(variant)
            table.add_row(
                f"{variant.name}\n[dim]{options}[/dim]" if options else variant.name,
                f"{variant.counts.params / 1e6:.2f}",
                f"{variant.counts.macs / 1e9:.1f}",
                scores_text(variant),
            )
    return table


def stages_table(times: Sequence[StageTimes], how: str) -> Table:
    """Table 5's milliseconds; ``how`` says where and on what they were measured."""
    table = Table(title="Table 5: ms of an attention layer, by stage", title_justify="left")
    table.caption, table.caption_justify = f"{how}; paper: V100", "left"
    table.add_column("attention")
    for stage in range(1, 5):
        table.add_column(f"{stage}", justify="right")
    table.add_column("paper", justify="right")
    for row in times:
        paper = " ".join(str(ms) for ms in row.paper)
        table.add_row(row.kind, *(f"{ms:.2f}" for ms in row.milliseconds), paper)
    return table


def stages_as_json(times: StageTimes, how: str) -> dict[str, Any]:
    """The times as ``--json`` writes them, with the keys of a row."""
    row = dict.fromkeys(
        ("config", "crop", "params_m", "paper_params_m", "flops_g", "paper_flops_g")
    )
    return {
        "table": TABLE,
        "method": times.kind,
        "backbone": "Swin-T",
        **row,
        "stage_ms": [round(ms, 3) for ms in times.milliseconds],
        "paper_stage_ms_v100": list(times.paper),
        "measured_on": how,
    }
