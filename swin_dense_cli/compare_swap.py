"""Compares OpenMMLab's Swin with ours in configs: names, optimizer groups, feature maps.

tools/compare_swap.py               every Swin config of the installed mmdet and mmsegmentation
tools/compare_swap.py CONFIG ...    your own
"""

from collections.abc import Sequence
from pathlib import Path

from swin_dense_cli.parsing import OneLineParser, run_command


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    summary, _, usage = (__doc__ or "").partition("\n")
    parser = OneLineParser(prog=prog, description=summary, epilog=" ".join(usage.split()))
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="configs of mmdet or mmseg")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there")
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command("compare_swap", make_parser(prog), argv)
