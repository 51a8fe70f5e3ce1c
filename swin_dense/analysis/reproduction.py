"""Published and counted numbers side by side: on the terminal, as JSON, as a document."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from swin_dense.analysis.ablation import (
    IMAGENET,
    METHODS,
    NOT_BUILT,
    TABLE_4,
    TABLE_6,
    StageTimes,
    Variant,
)
from swin_dense.analysis.counting import Counts, count_config
from swin_dense.analysis.machine import describe_versions
from swin_dense.analysis.paper import Row
from swin_dense.engine.config.prepare import load_config
from swin_dense.engine.terminal.tables import markdown_table, terminal_table

# The tables round, and some of their models were counted by other tools.
TOLERANCE = 0.01
TITLES = {
    "table_2a": "Table 2a: frameworks, COCO",
    "table_2b": "Table 2b: backbones, COCO",
    "table_2c": "Table 2c: systems, COCO",
    "table_3": "Table 3: ADE20K",
    "official_results_not_in_tables": "Official results that are in no table",
    "moby": "MoBY: Swin-T pretrained without labels",
    "v2_table_1": "Swin V2, Table 1: other windows than in pretraining",
    "v2_table_3": "Swin V2, Table 3: COCO",
    "v2_table_4": "Swin V2, Table 4: ADE20K",
    "not_published": "Not published",
}
_HEADER = """# Reproduction: published and counted

Generated, not edited: `{command}`
({versions}).

M is millions of parameters, G billions of multiply-accumulates, "paper" what is published (tables
2 and 3 of the paper, the result tables of the official code and of MoBY, and tables 1, 3 and 4 of
the paper of Swin V2, which has scores only). Counted are the convolutions,
the linear layers and the matrix products of attention that one forward runs, from the config,
without running the arithmetic: of detectors on 1280 x 800 pixels, with 1000 regions for every box
head and 100 for every mask head (Sparse R-CNN: its own proposals); of segmentors on 2048 x 512
pixels, or 2560 x 640 where the crops are 640. Norms, activations, interpolation and auxiliary
heads do not count; the parameters of auxiliary heads do. Feature maps that windows do not divide
are padded before the attention's linear layers, as in the paper's code; the backbone here keeps
the padding out of them and does up to 2 % less.
"""
_SCORES = """Scores are the paper's: box and mask AP on COCO minival and mIoU on ADE20K validation
(several scales and flips; Swin V2's Table 1 does not say), in percent. Rows are tested with
`tools/reproduce.py --row ROW --data-root DIR --checkpoint FILE`.
"""
_VARIANTS = """## Table 4: what shifting and position terms contribute

Each variant is a config with the options beside it, for example
`tools/train.py configs/cascade_swin_t_coco.py --cfg-options model.backbone.use_shift=False`. Only
the options of the full model fit its pretrained weights: the others need a pretraining of their
own. "w/o app." multiplies its queries and keys like the others, with a factor of 0.
"""
_ATTENTIONS = """## Table 6: sliding and shifted windows

"Sliding window" is a config with the option beside it: every token attends to the 7 x 7 tokens
around it. No weights for it were published, so that it trains from scratch, or from those of a
Swin, all of which but the position bias fit. Counted is the naive form, which pads no map to whole
windows; the fast one computes more scores and masks them. Of Performer neither the number of
features nor what takes the place of the position bias is published, so it is not built.
"""
_STAGES = """## Table 5: kinds of attention

Milliseconds of one attention layer (its linear layers included) of each stage of Swin-T on
224 x 224 pixels, forward, float32, plain PyTorch, the fastest of several rounds. "Kernel" is the
authors' in CUDA; measured is sliding-window attention by tiles on PyTorch's fused attention. The
published milliseconds are a V100's; their batch size is not published, so only their proportions
compare. The published images per second are of whole classifiers; here these are not measured.
On a CPU the shifted kinds lose more than there: the weights that their masks leave, exp(-100), are
denormal numbers, with which CPUs are slow. Measured on: {measured_on}.
"""


@dataclass(frozen=True)
class Reproduced:
    """A published row and what was counted.

    Attributes:
        row: what is published.
        counts: of the row's config.
        variants: of the row's :attr:`~swin_dense.analysis.paper.Row.variants`, by name.
    """

    row: Row
    counts: Counts
    variants: Mapping[str, Counts] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether both counts are within 1 % of the published ones."""
        return not self._offsets()

    def remarks(self) -> str:
        """Why the counts differ from the published ones, or by how much if that is not known.

        Where no counts are published, in what the config may differ.
        """
        uncounted = self.row.params_m is None and self.row.flops_g is None
        parts = [self.row.note] if uncounted and self.row.note else []
        if offsets := self._offsets():
            unknown = f"off by {', '.join(offsets)}, for a reason that is not known"
            parts.append(self.row.note or unknown)
            if self.row.unseen:
                unseen = sum(self.counts.outside_layers_of[name] for name in self.row.unseen)
                seen = self.counts.flops_g - unseen / 1e9
                parts.append(f"without those of {', '.join(self.row.unseen)}: {seen:.0f} G")
        parts += [
            f"{name}: {counts.params_m:.1f} M, {counts.flops_g:.0f} G"
            for name, counts in self.variants.items()
        ]
        return "; ".join(parts)

    def _offsets(self) -> list[str]:
        """Relative errors of the counts that do not agree, such as '+1.5% in FLOPs'."""
        pairs = (
            (self.counts.params_m, self.row.params_m, "parameters"),
            (self.counts.flops_g, self.row.flops_g, "FLOPs"),
        )
        return [
            f"{counted / published - 1:+.1%} in {name}"
            for counted, published, name in pairs
            if published is not None and abs(counted - published) > TOLERANCE * published
        ]


def reproduce(rows: Iterable[Row], configs: Path) -> Iterator[Reproduced]:
    """Count the config of each row, one after the other; rows that share a config count once.

    Raises:
        UserError: a row's config is missing.
    """

    @functools.cache
    def count(config: str, *options: tuple[str, Any]) -> Counts:
        return count_config(load_config(configs / f"{config}.py", dict(options)))

    for row in rows:
        variants = {name: count(row.config, *new.items()) for name, new in row.variants.items()}
        yield Reproduced(row, count(row.config), variants)


def as_json(result: Reproduced) -> dict[str, Any]:
    """A row as ``--json`` writes it; keys that begin with ``paper_`` hold published numbers."""
    row, counts = result.row, result.counts
    return {
        "row": row.name,
        "table": row.table,
        "method": row.method,
        "backbone": row.backbone,
        "config": f"configs/{row.config}.py",
        "crop": row.crop,
        "schedule": row.schedule,
        "multi_scale_test": row.multi_scale_test,
        "image_size": list(counts.image_size),
        "params_m": round(counts.params_m, 2),
        "paper_params_m": row.params_m,
        "flops_g": round(counts.flops_g, 1),
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
    headings = ["row", "M:", "paper:", "G:", "paper:"]
    return [
        terminal_table(headings, map(_terminal_row, group), TITLES[name])
        for name, group in groupby(results, lambda result: result.row.table)
    ]


def variants_tables(variants: Sequence[Variant]) -> list[Table]:
    """Variants of tables 4 and 6 for the terminal, the options of each below its name."""
    tables = []
    headings = ["config, variant", "M:", "G:", "paper"]
    for table, title in ((TABLE_4, "Table 4: ablations"), (TABLE_6, "Table 6: attention")):
        rows = []
        for config in METHODS:
            rows.append([f"[bold]configs/{config}.py[/bold]"])
            for variant in (v for v in variants if (v.table, v.config) == (table, config)):
                name = _with_remarks(variant.name, _options(variant))
                rows.append([name, *_counted(variant), _scores(variant)])
        tables.append(terminal_table(headings, rows, f"{title} on Swin-T"))
    return tables


def stages_table(times: Sequence[StageTimes], measured_on: str) -> Table:
    """Table 5's milliseconds for the terminal."""
    headings = ["attention", "1:", "2:", "3:", "4:", "paper:"]
    rows = ([*_milliseconds(row), " ".join(map(str, row.paper))] for row in times)
    title = "Table 5: ms of an attention layer, by stage"
    return terminal_table(headings, rows, title, f"{measured_on}; paper: V100")


def reproduction_document(
    results: Sequence[Reproduced],
    variants: Sequence[Variant],
    times: Sequence[StageTimes],
    *,
    command: str,
    configs: str,
    measured_on: str,
) -> str:
    """The Markdown document, without the sections of tables 4 to 6 if these are empty.

    Args:
        results: rows of tables 2 and 3.
        variants: of tables 4 and 6.
        times: of table 5.
        command: what generates the document.
        configs: the folder of the configs, seen from the document.
        measured_on: machine, date and batch of ``times``.
    """
    parts = [_HEADER.format(command=command, versions=describe_versions()), _SCORES]
    headings = ["method", "backbone", "row", "M:", "M paper:", "G:", "G paper:"]
    headings += ["FPS, V100, paper:", "score, paper", "remarks"]
    for name, group in groupby(results, lambda result: result.row.table):
        table = markdown_table(headings, (_row(result, configs) for result in group))
        parts.append(f"## {TITLES[name]}\n\n{table}")
    if variants:
        parts.append(f"{_VARIANTS}\n{_variants_document(variants, TABLE_4, configs)}")
    if times:
        parts.append(f"{_STAGES.format(measured_on=measured_on)}\n{_stages_document(times)}")
    if variants:
        parts.append(f"{_ATTENTIONS}\n{_variants_document(variants, TABLE_6, configs)}")
    return "\n".join(parts)


def _variants_document(variants: Sequence[Variant], table: str, configs: str) -> str:
    """Table 4 or 6 in Markdown; the latter with what was published and is not built."""
    headings = ["config", "variant", "options", "M:", "G:", "scores, paper"]
    rows = [_variant_row(one, configs) for one in variants if one.table == table]
    if table == TABLE_6:
        rows.append(["not built", NOT_BUILT, "", "-", "-", _imagenet(NOT_BUILT)])
    return markdown_table(headings, rows)


def _stages_document(times: Sequence[StageTimes]) -> str:
    """Table 5 in Markdown."""
    stages = [f"stage {stage}" for stage in range(1, 5)]
    headings = ["attention", *(f"{stage}:" for stage in stages)]
    headings += [f"{stage}, V100, paper:" for stage in stages]
    headings += [f"{size}, images/s, V100, paper:" for size in "TSB"]
    rows = ([*_milliseconds(one), *one.paper, *one.paper_fps] for one in times)
    return markdown_table(headings, rows)


def _terminal_row(result: Reproduced) -> list[str]:
    row, counts = result.row, result.counts
    label = row.name + (" *" if row.multi_scale_test else "")
    counted = f"{counts.params_m:.1f}", f"{counts.flops_g:.0f}"
    paper = _published(row.params_m), _published(row.flops_g)
    return [_with_remarks(label, result.remarks()), counted[0], paper[0], counted[1], paper[1]]


def _with_remarks(label: str, remarks: str) -> str:
    return f"{label}\n[dim]{remarks}[/dim]" if remarks else label


def _row(result: Reproduced, configs: str) -> list[str]:
    row, counts = result.row, result.counts
    scores = ((row.box, "box"), (row.mask, "mask"), (row.miou, "mIoU"))
    text = ", ".join(f"{score} {name}" for score, name in scores if score is not None)
    return [
        row.method,
        row.backbone,
        f"[{row.name}]({configs}/{row.config}.py)" + (f", {row.schedule}" if row.schedule else ""),
        f"{counts.params_m:.2f}",
        _published(row.params_m),
        f"{counts.flops_g:.1f}",
        _published(row.flops_g),
        _published(row.fps),
        text + (", several scales" if row.multi_scale_test else ""),
        result.remarks(),
    ]


def _variant_row(variant: Variant, configs: str) -> list[str]:
    link = f"[{variant.config}]({configs}/{variant.config}.py)"
    options = f"`{_options(variant)}`" if variant.options else ""
    return [link, variant.name, options, *_counted(variant), _scores(variant)]


def _options(variant: Variant) -> str:
    """The variant's ``--cfg-options``, as they are typed."""
    return " ".join(f"{key}={value}" for key, value in variant.options.items())


def _counted(variant: Variant) -> tuple[str, str]:
    return f"{variant.counts.params_m:.2f}", f"{variant.counts.flops_g:.1f}"


def _milliseconds(times: StageTimes) -> list[str]:
    if times.milliseconds is None:
        return [f"{times.kind}: {times.remark}", *"----"]
    return [times.kind, *(f"{ms:.2f}" for ms in times.milliseconds)]


def _scores(variant: Variant) -> str:
    scores = ", ".join(f"{name} {score}" for name, score in variant.paper.items())
    return f"{scores}; {_imagenet(variant.name)}" if variant.name in IMAGENET else scores


def _imagenet(name: str) -> str:
    return "ImageNet top-1 {}, top-5 {}".format(*IMAGENET[name])


def _published(value: float | None) -> str:
    """A published number; '-' for none."""
    return "-" if value is None else str(value)
