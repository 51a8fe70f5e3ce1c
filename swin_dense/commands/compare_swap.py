"""Compares OpenMMLab's Swin with ours in configs: names, optimizer groups, feature maps.

tools/compare_swap.py               every Swin config of the installed mmdet and mmsegmentation
tools/compare_swap.py CONFIG ...    your own
"""

import shlex
from argparse import Namespace
from collections.abc import Sequence

from mmengine.config import Config
from rich.progress import track

from swin_dense.analysis.machine import describe_versions
from swin_dense.analysis.parity import (
    STOCK,
    STOCK_V2,
    Comparison,
    backbone_type,
    compare,
    comparison_key,
    zoo_configs,
)
from swin_dense.engine.config.load import read_config
from swin_dense.engine.paths import make_output_dir
from swin_dense.engine.terminal.console import console, quiet_terminal
from swin_dense.engine.terminal.tables import markdown_table, terminal_table
from swin_dense.errors import UserError
from swin_dense.files import write_text

# Rounding of float32 through 24 blocks; a mistake is thousands of times larger.
_TOLERANCE = 1e-5
_HEADINGS = ("names:", "groups:", "evaluating:", "training:")
_HEADER = """# Our backbone in the configs of mmdet and mmsegmentation

Generated, not edited: `{command}`
({versions}).

Every config that is installed with mmdet and mmsegmentation and has their Swin Transformer as
`model.backbone`, with `model.backbone.type=swin_dense.SwinTransformer`. Configs with the same
backbone and the same optimizer settings share a row. "Names" are parameters and buffers that
differ in name, shape or order; "groups" are parameters with another learning rate, weight decay
or other optimizer setting; "evaluating" and "training" are the largest difference of any feature
map over its largest value, with the same weights, on a random image of 51 x 70 pixels, in float32
at full size. Training draws stochastic depth from the same seed.

Whole models of each kind, their losses and predictions with either backbone, are compared by
`tests/zoo/test_zoo_models.py`.
"""


def run(args: Namespace) -> None:
    """Compares, shows the table, and fails if anything differs.

    Raises:
        UserError: a config has no stock Swin backbone, or the two differ.
    """
    with quiet_terminal():
        if args.markdown:
            make_output_dir(args.markdown.parent, "--markdown")
        groups = _group([(path, _read(path)) for path in args.configs] or list(zoo_configs()))
        rows = []
        for names, cfg in track(groups, "comparing", console=console(), transient=True):
            rows.append((names, compare(cfg)))
        brief = ([_brief(names), *_cells(result)] for names, result in rows)
        console().print(terminal_table(["config", *_HEADINGS], brief))
        if args.markdown:
            command = f"tools/compare_swap.py {shlex.join(args.command)}"
            header = _HEADER.format(command=command, versions=describe_versions())
            lines = (["<br>".join(names), *_cells(result)] for names, result in rows)
            table = markdown_table(["configs", *_HEADINGS], lines)
            write_text(args.markdown, f"{header}\n{table}")
    different = [names[0] for names, result in rows if not _same(result)]
    if different:
        raise UserError(f"the two backbones differ: {', '.join(different)}")


def _read(path: str) -> Config:
    cfg = read_config(path)
    if backbone_type(cfg) not in (STOCK, STOCK_V2):
        raise UserError(
            f"{path}: model.backbone.type is {backbone_type(cfg)!r}, "
            f"expected {STOCK!r} or {STOCK_V2!r}"
        )
    return cfg


def _group(configs: Sequence[tuple[str, Config]]) -> list[tuple[list[str], Config]]:
    """Configs that differ in neither backbone nor optimizer, together with one of them."""
    groups: dict[tuple[str, str], tuple[list[str], Config]] = {}
    for name, cfg in configs:
        groups.setdefault(comparison_key(cfg), ([], cfg))[0].append(str(name))
    return list(groups.values())


def _same(result: Comparison) -> bool:
    return not result.names and not result.groups and max(_errors(result)) <= _TOLERANCE


def _errors(result: Comparison) -> tuple[float, float]:
    return result.evaluating, result.training


def _cells(result: Comparison) -> list[str]:
    counts = (len(result.names), len(result.groups))
    return [*map(str, counts), *(f"{error:.0e}" if error else "0" for error in _errors(result))]


def _brief(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
