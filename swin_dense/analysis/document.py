"""The tables as a Markdown document, generated whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from swin_dense.analysis.ablation import Variant
from swin_dense.analysis.ablation_report import options_text, scores_text
from swin_dense.analysis.machine import describe_versions
from swin_dense.analysis.report import TITLES, figure
from swin_dense.analysis.reproduction import Reproduced
from swin_dense.analysis.stage_times import StageTimes

_HEADER = """# Reproduction: published and counted

Generated, not edited: `{command}`
({versions}).

M is millions of parameters, G billions of multiply-accumulates, "paper" what is published (tables
2 and 3 of the paper, and the result tables of the official code). Counted are the convolutions,
the linear layers and the matrix products of attention that one forward runs, from the config,
without running the arithmetic: of detectors on 1280 x 800 pixels, with 1000 regions for every box
head and 100 for every mask head (Sparse R-CNN: its own proposals); of segmentors on 2048 x 512
pixels, or 2560 x 640 where the crops are 640. Norms, activations, interpolation and auxiliary
heads do not count; the parameters of auxiliary heads do. Maps that windows do not divide are
filled up before the attention's linear layers, as in the paper's code; the backbone here leaves
the filling out of them and does up to 2 % less.
"""
_SCORES = """Scores are the paper's: box and mask AP on COCO minival and mIoU on ADE20K validation
(several scales and flips), in percent. Rows are tested with
`tools/reproduce.py --row ROW --data-root DIR --checkpoint FILE`.
"""
_VARIANTS = """## Table 4: what shifting and position terms contribute

Each variant is a config with the options beside it, for example
`tools/train.py configs/cascade_swin_t_coco.py --cfg-options model.backbone.use_shift=False`. Only
the options of the full model fit its pretrained weights: the others need a pretraining of their
own. "w/o app." multiplies its queries and keys like the others, with a factor of 0.
"""
_STAGES = """## Table 5: window, shifted by padding, shifted cyclically

Milliseconds of one attention layer (its linear layers included) of each stage of Swin-T on
224 x 224 pixels, forward, float32, plain PyTorch, the fastest of several rounds. The published
milliseconds are a V100's; their batch size is not published, so only their proportions compare.
On a CPU the shifted kinds lose more than there: the weights that their masks leave, exp(-100), are
denormal numbers, with which CPUs are slow. Measured on: {how}.
"""


def reproduction_document(
    results: Sequence[Reproduced],
    variants: Sequence[Variant],
    times: Sequence[StageTimes],
    *,
    command: str,
    configs: str,
    measured_on: str,
) -> str:
    """The document.

    Args:
        results: rows of tables 2 and 3.
        variants: of table 4; none leaves the section out.
        times: of table 5; none leaves the section out.
        command: what generates the document.
        configs: the folder of the configs, seen from the document.
        measured_on: machine, date and batch of ``times``.
    """
    parts = [_HEADER.format(command=command, versions=describe_versions()), _SCORES]
    for name, group in groupby(results, lambda result: result.row.table):
        parts.append(f"## {TITLES[name]}\n\n" + _table(*_rows(group, configs)))
    if variants:
        parts.append(_VARIANTS + "\n" + _table(*_variants(variants, configs)))
    if times:
        parts.append(_STAGES.format(how=measured_on) + "\n" + _table(*_times(times)))
    return "\n".join(parts)


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown; a heading that ends in ':' is of figures."""
    headings = list(headings)
    rules = ["--:" if heading.endswith(":") else "---" for heading in headings]
    lines = [[heading.rstrip(":") for heading in headings], rules, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rows(group: Iterable[Reproduced], configs: str) -> tuple[list[str], Iterator[list[str]]]:
    headings = ["method", "backbone", "row", "M:", "M paper:", "G:", "G paper:"]
    headings += ["FPS, V100, paper:", "score, paper", "remarks"]
    cells = (
        [
            result.row.method,
            result.row.backbone,
            _link(result.row.name, result.row.config, configs)
            + (f", {result.row.schedule}" if result.row.schedule else ""),
            f"{result.params_m:.2f}",
            figure(result.row.params_m),
            f"{result.flops_g:.1f}",
            figure(result.row.flops_g),
            figure(result.row.fps),
            _score(result),
            result.remarks(),
        ]
        for result in group
    )
    return headings, cells


def _score(result: Reproduced) -> str:
    row = result.row
    scores = ((row.box, "box"), (row.mask, "mask"), (row.miou, "mIoU"))
    text = ", ".join(f"{score} {name}" for score, name in scores if score is not None)
    return text + (", several scales" if row.multi_scale_test else "")


def _variants(variants: Iterable[Variant], configs: str) -> tuple[list[str], Iterator[list[str]]]:
    headings = ["config", "variant", "options", "M:", "G:", "scores, paper"]
    cells = (
        [
            _link(variant.config, variant.config, configs),
            variant.name,
            f"`{options_text(variant)}`" if variant.options else "",
            f"{variant.counts.params / 1e6:.2f}",
            f"{variant.counts.macs / 1e9:.1f}",
            scores_text(variant),
        ]
        for variant in variants
    )
    return headings, cells


def _times(times: Iterable[StageTimes]) -> tuple[list[str], Iterator[list[str]]]:
    headings = ["attention", *(f"stage {stage}:" for stage in range(1, 5))]
    headings += [f"stage {stage}, V100, paper:" for stage in range(1, 5)]
    cells = (
        [
            row.kind,
            *(f"{milliseconds:.2f}" for milliseconds in row.milliseconds),
            *(str(milliseconds) for milliseconds in row.paper),
        ]
        for row in times
    )
    return headings, cells


def _link(text: str, config: str, configs: str) -> str:
    return f"[{text}]({configs}/{config}.py)"
